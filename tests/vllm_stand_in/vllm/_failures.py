"""What vLLM 0.32 writes when it fails, with tracebacks of its shape."""


def _traceback(error: str, *frames: tuple[str, str, str]) -> str:
    lines = ["Traceback (most recent call last):"]
    for path, function, source in frames:
        lines.append(f'  File "/env/lib/python3.12/site-packages/{path}", line 603, in {function}')
        lines.append(f"    {source}")
        lines.append("    " + "^" * len(source))
    return "\n".join([*lines, error])


def long_config(model: str, tensor_parallel: str) -> str:
    """The configuration as the log shows it: one very long line."""
    sizes = ", ".join(map(str, range(1, 513)))
    return (
        f"model='{model}', speculative_config=None, tokenizer='{model}', dtype=torch.bfloat16, "
        f"max_seq_len=2048, tensor_parallel_size={tensor_parallel}, pipeline_parallel_size=1, "
        f"enforce_eager=True, device_config=cpu, compilation_config={{'sizes': [{sizes}]}}"
    )


_ENGINE = ("vllm/v1/engine/core.py", "run_engine_core", "engine_core = EngineCoreProc(*args)")
_EXECUTOR = ("vllm/v1/executor/abstract.py", "__init__", "self._init_executor()")

OUT_OF_MEMORY = _traceback(
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total "
    "capacity of 14.74 GiB of which 1.22 GiB is free. Including non-PyTorch memory, this process "
    "has 13.51 GiB memory in use. Of the allocated memory 13.30 GiB is allocated by PyTorch, and "
    "92.00 MiB is reserved by PyTorch but unallocated.",
    ("vllm/v1/executor/multiproc_executor.py", "worker_main", "worker = WorkerProc(*args)"),
    ("vllm/v1/worker/gpu_worker.py", "load_model", "self.model_runner.load_model()"),
    ("vllm/model_executor/layers/linear.py", "create_weights", "weight = Parameter(torch.empty("),
    ("torch/utils/_device.py", "__torch_function__", "return func(*args, **kwargs)"),
)
WORKER_FAILED = _traceback(
    "Exception: WorkerProc initialization failed due to an exception in a background process. "
    "See stack trace for root cause.",
    _ENGINE,
    _EXECUTOR,
    ("vllm/v1/executor/multiproc_executor.py", "wait_for_ready", "raise e from None"),
)
KV_TOO_SMALL = _traceback(
    "ValueError: To serve at least one request with the model's max seq len (8192), (0.18 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (0.09 GiB). Based on the "
    "available memory, the estimated maximum model length is 4352. Try increasing "
    "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing "
    "`max_model_len` when initializing the engine.",
    _ENGINE,
    ("vllm/v1/engine/core.py", "_initialize_kv_caches", "kv_cache_configs = get_kv_cache_configs("),
    ("vllm/v1/core/kv_cache_utils.py", "_check_enough_kv_cache_memory", "raise ValueError("),
)


def sampler_out_of_memory(sequences: int) -> str:
    return _traceback(
        f"RuntimeError: CUDA out of memory occurred when warming up sampler with {sequences} dummy "
        "requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when "
        "initializing the engine.",
        _ENGINE,
        ("vllm/v1/worker/gpu_model_runner.py", "_dummy_sampler_run", "raise RuntimeError("),
    )


def worker_died(status: int) -> str:
    return (
        f"Worker proc VllmWorker-0 died unexpectedly (exit code: {status}), shutting down executor."
    )


NO_SHARED_MEMORY_BLOCK = (
    "No available shared memory broadcast block found in 60 seconds. This typically happens when "
    "some processes are hanging or doing some time-consuming work (e.g. compilation, weight/kv "
    "cache quantization)."
)
_MAIN = ("vllm/entrypoints/cli/main.py", "main", "args.dispatch_function(args)")
_SERVER = (
    "vllm/entrypoints/launchers/api_server/entry.py",
    "run_server",
    "await run_server_worker(",
)


def heads(tensor_parallel: str) -> str:
    """9 heads do not divide; pydantic says it in its own way, after a long dump of the input."""
    dump = "'...'".join([f"'{name}': None, " for name in ("model", "cache", "parallel")] * 40)
    return _traceback(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "  Value error, Total number of attention heads (9) must be divisible by tensor parallel "
        f"size ({tensor_parallel}). [type=value_error, input_value=ArgsKwargs(({{{dump}}})), "
        "input_type=ArgsKwargs]\n"
        "    For further information visit https://errors.pydantic.dev/2.12/v/value_error",
        _MAIN,
        _SERVER,
        ("vllm/engine/arg_utils.py", "create_engine_config", "config = VllmConfig("),
    )


def engine_did_not_start(failed: dict[str, int]) -> str:
    """The wrapper that is written last, and is never the cause."""
    return _traceback(
        "RuntimeError: Engine core initialization failed. See root cause above. "
        f"Failed core proc(s): {failed}",
        _MAIN,
        _SERVER,
        ("vllm/v1/engine/utils.py", "wait_for_engine_startup", "raise RuntimeError("),
    )


ENGINE_DEAD = (
    "EngineCore encountered an issue. See stack trace (above) for the root cause."  # word for word
)
ENGINE_DEAD_TRACEBACK = _traceback(
    f"vllm.v1.engine.exceptions.EngineDeadError: {ENGINE_DEAD}",
    ("vllm/v1/engine/async_llm.py", "output_handler", "outputs = await engine.get_output_async()"),
    ("vllm/v1/engine/core_client.py", "get_output_async", "raise self._format_exception(outputs)"),
)
PORT_TAKEN = _traceback(
    "OSError: [Errno 98] Address already in use",
    _MAIN,
    _SERVER,
    ("vllm/entrypoints/launchers/api_server/entry.py", "create_server_socket", "sock.bind(addr)"),
)
API_CRASHED = _traceback(
    "RuntimeError: The stand-in was asked to crash.",
    _MAIN,
    _SERVER,
)
