"""The installation, the process, and the machine that it runs on."""

from __future__ import annotations

from gearshift.doctor._signature import Fix, Found, Signature, Tier
from gearshift.doctor.causes import Cause


def _other_port(found: Found) -> Fix:
    port = found.told.number("port")
    text = "the program that listens there is named by `ss -ltnp` or `lsof -i`: end it, or start "
    return Fix(f"{text}with --port {port + 1}" if port else f"{text}with another --port")


def _smaller_cache(found: Found) -> Fix:
    free, total = found.number("free"), found.number("total")
    other = f"end other programs: {free:g} of {total:g} GiB are free"
    if free < 2:
        return Fix(other)
    return Fix(f"start with VLLM_CPU_KVCACHE_SPACE={int(free / 2)} (GiB), or {other}")


SIGNATURES = (
    Signature(
        Cause.TORCH_ABI,
        (
            r"undefined symbol: \w",
            r"libcudart\.so[\w.]*:? cannot open shared object",
            r"lib(?:torch\w*|c10\w*|cublas\w*|cudnn\w*|cusparse\w*|nvrtc\w*|nccl)\.so[\w.]*:? "
            r"(?:cannot open shared object|undefined symbol)",
            r"_c(?:_\w+)?(?:\.abi3)?\.so… undefined symbol",
            r"_opnamespace.{0,5}_\w+.{0,3} object has no attribute",
            r"object has no attribute .{0,3}(?:silu_and_mul|rms_norm|\w+_attention|gptq_marlin\w*|"
            r"init_custom_ar|convert_fp8|reshape_and_cache)",
            r"operator torchvision::nms does not exist",
            r"compiled with different cuda",
            r"no module named .{0,3}vllm\._c\b",
            r"version mismatch… torch|torch… (?:abi|version) mismatch",
        ),
        "torch or CUDA in this environment is not the one that this vLLM was built for.",
        "make a fresh environment and leave its torch alone: gearshift engine remove, then "
        "gearshift engine install (or: uv pip install vllm --torch-backend=auto)",
    ),
    Signature(
        Cause.TORCH_ABI,
        (
            r"version .glibc(?:xx)?_[\d.]+. not found",
            r"compiled using numpy 1\.x cannot be run in numpy",
            r"numpy\.\w+ size changed, may indicate binary incompatibility",
        ),
        "A package was built for other libraries than those of this system or environment.",
        "make a fresh environment (gearshift engine remove, then gearshift engine install); where "
        "GLIBC is named, the system is older than the package wants: take vLLM's container",
    ),
    Signature(
        Cause.TRITON,
        (
            r"from .{0,3}triton[\w.]*.{0,3}\b[^\n]*(?:unknown location|/triton/)",
            r"cannot import name .{0,3}\w+.{0,3} from .{0,3}triton",
            r"module .{0,3}triton[\w.]*.{0,3} has no attribute",
            r"no module named .{0,3}triton\.",
            r"triton… (?:is )?not compatible with… (?:pytorch|torch)",
            r"triton… (?:library|version)… (?:incompatible|mismatch)",
            r"tritonmissing|cannot find a working triton",
            r"requirement triton\b|triton [\w.+]+ which is incompatible",
            r"errors? from .{0,3}torch/_inductor",
            r"torch/_inductor/[\w/]+\.py…\s+(?:[^\n]*\n){0,6}?[^\n]*triton[^\n]*(?:error|attribute)",
        ),
        "The installed triton is not the one that belongs to this torch.",
        "make a fresh environment, in which torch chooses its triton: gearshift engine remove, "
        "then gearshift engine install",
    ),
    Signature(
        Cause.COMPILER,
        (
            r"failed to find c compiler",
            r"(?:gcc|g\+\+|clang|cc)(?:\W{0,3}:| ) ?(?:command )?not found",
            r"no working c(?:\+\+|pp) compiler",
            r"(?:no such file or directory|filenotfounderror).{0,5} .?(?:/usr/bin/)?"
            r"(?:gcc|g\+\+|cc|clang)\b",
            r"error: command .{0,3}(?:\S*/)?(?:\S*gcc|g\+\+|cc).{0,3} failed: no such",
            r"python\.h\b[^\n]{0,20}(?:no such|not found|`|$)",
            r"unable to execute .{0,3}(?:gcc|cc|g\+\+)",
            r"invalidcxxcompiler",
            r"(?:missing|no|without a) c compiler",
            r"(?:cuda_utils|main)\.c… (?:returned non-zero|failed)",
            r"fatal error: (?:cuda|stddef|stdlib|stdint|limits|cuda_runtime)\.h: no such file",
            r"set cc environment variable",
            r"linker .?cc.? not found",
        ),
        "Triton compiles small C programs while vLLM starts, and there is no compiler.",
        "sudo apt-get install build-essential python3-dev (or start with --enforce-eager)",
    ),
    Signature(
        Cause.NVCC,
        (
            r"could not find nvcc",
            r"nvcc(?:\W{0,3}:| ) ?(?:command )?not found",
            r"(?:no such file or directory|filenotfounderror)[^\n]{0,60}nvcc",
            r"flashinfer[^\n]*\s*(?:[^\n]*\n){0,4}?[^\n]*nvcc fatal",
            r"cuda_home environment variable is not set",
            r"default cuda_home",
            r"flashinfer… (?:nvcc|jit|ninja|compile)… (?:fail|error|not|missing|require)",
            r"cuda compiler and cuda toolkit headers are incompatible",
            r"unable to find cuda_home|cuda_home is (?:not set|none)",
            r"ninja is required to load c\+\+",
        ),
        "FlashInfer compiles its kernels while it runs, and the CUDA toolkit (nvcc) is not there.",
        "set VLLM_USE_FLASHINFER_SAMPLER=0, or install the CUDA toolkit and set CUDA_HOME (an "
        "image that ends in -devel has it)",
    ),
    Signature(
        Cause.CUDA_FORK,
        (
            r"cannot re-?initialize cuda in (?:a )?forked subprocess",
            r"to use cuda with multiprocessing,? you must use the .{0,2}spawn",
        ),
        "A program used CUDA and then started vLLM's processes as copies of itself.",
        "set VLLM_WORKER_MULTIPROC_METHOD=spawn and guard the program with "
        'if __name__ == "__main__":; or serve with gearshift serve, and talk to it over HTTP',
    ),
    Signature(
        Cause.MAIN_GUARD,
        (
            r"finished its bootstrapping phase",
            r"forgotten to use the proper idiom",
            r"safe importing of main module",
        ),
        "A program that starts vLLM is run a second time by each process that vLLM starts.",
        'put what it does below if __name__ == "__main__":; or serve with gearshift serve',
    ),
    Signature(
        Cause.PORT,
        (
            r"\[errno (?:98|48|10048)\]",
            r"address already in use",
            r"eaddrinuse",
            r"error while attempting to bind on address",
            r"port \d+ (?:is )?(?:already )?(?:in use|taken|occupied|not available)",
            r"only one usage of each socket address",
        ),
        "Another program listens on the port.",
        _other_port,
        unless=r"userland proxy|bind host port|already allocated|"
        r"listen tcp\S* \S*:11434|11434[^\n]*(?:bind|in use)|\bollama\b",
    ),
    Signature(
        Cause.METADATA,
        (r"no package metadata was found for .{0,3}vllm",),
        "The build for processors is installed under another name, so vLLM does not find itself.",
        "gearshift engine install mends that; or set GEARSHIFT_VLLM_PYTHON to an environment where "
        "`pip show vllm` answers",
    ),
    Signature(
        Cause.NUMA,
        (r"(?:not|no) enough allowed numa nodes",),
        "Several ranks on processors want a NUMA node each.",
        "set VLLM_CPU_OMP_THREADS_BIND, such as '0|1' for two ranks on two processors",
    ),
    Signature(
        Cause.OPTION_UNKNOWN,
        (
            r"unrecognized arguments: (?P<option>--?[\w-]+)",
            r"error: argument (?P<option>--?[\w-]+)(?:/--?[\w-]+)*: ?"
            r"(?:invalid|expected|ignored|not allowed)",
            r"error: the following arguments are required: (?P<option>[\w-]+)",
            r"engineargs…unexpected keyword argument .?(?P<option>\w+)",
            r"unexpected keyword argument .?(?P<option>\w+)…engineargs",
        ),
        "This vLLM does not know an option that it was given, or not that value of it.",
        "leave {option} out, or look it up: vllm serve --help=all; options come and go with "
        "versions",
    ),
    Signature(
        Cause.DISK_FULL,
        (
            r"no space left on device",
            r"not enough (?:free )?disk space",
            r"\bos error 28\b",
            r"disk quota exceeded",
        ),
        "A disk is full.",
        "`df -h` shows which; the Hub's cache is in ~/.cache/huggingface",
        tier=Tier.GENERAL,
        unless=r"/dev/shm|shared memory",
    ),
    Signature(
        Cause.HOST_MEMORY,
        (
            r"oom-kill|oom ?killer|out of memory: killed process",
            r"(?<![^\n])killed(?![^\n])",
            r"failed core proc\(s\): \{[^}]*: -9\b",
            r"exit ?code:? -9\b",
            r"killed due to memory pressure",
            r"oom_kill event|oom killed\b",
            r"killed due to the node running low on memory",
            r"oomkilled",
            r"cannot allocate memory",
            r"died with <signals\.sigkill",
            r"terminated with signal sigkill",
            r"exit(?:ed)?(?: with)?(?: code| status)? 137\b",
        ),
        "The machine's own memory ran out, and the system ended a process.",
        "end other programs, take a smaller model, or give the container or WSL more memory",
        tier=Tier.GENERAL,
        unless=r"ollama|llama[ -](?:runner|server)",
    ),
    Signature(
        Cause.HOST_MEMORY,
        (
            r"available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) gib\) on kv cache "
            r"allocation is less than requested memory for kv \((?P<asked>[\d.]+) gib\)",
        ),
        "The KV cache that was asked for is larger than what the machine's own memory has free.",
        _smaller_cache,
    ),
    Signature(
        Cause.HOST_MEMORY,
        (r"available memory on node \d+ … is less than desired cpu memory utilization",),
        "The processor's memory node has less free than vLLM would take.",
        "start with VLLM_CPU_KVCACHE_SPACE=4 (GiB) or a lower --gpu-memory-utilization, or end "
        "other programs",
    ),
    Signature(
        Cause.OPEN_FILES,
        (r"\[errno 24\]", r"too many open files"),
        "The process may not open as many files and connections as it needs.",
        "ulimit -n 65535 in the shell that starts it (a service: LimitNOFILE=65535; a container: "
        "--ulimit nofile=65535)",
        unless=r"found ulimit of",
    ),
    Signature(
        Cause.PACKAGE,
        (
            r"requires the following packages that were not found in your environment: "
            r"(?P<package>[\w-]+)",
            r"missing requirements in your local environment… (?P<package>[\w-]+)",
            r"modulenotfounderror: no module named ['\"](?P<package>[a-z_0-9]+)['\"]",
        ),
        "A package that is needed is not installed.",
        "install it where vLLM is: uv pip install {package} (--python of its environment), then "
        "start again",
        tier=Tier.GENERAL,
    ),
    Signature(
        Cause.VLLM_KEY,
        (r"\{.error.: ?.unauthorized.\}", r"401[^\n]{0,80}/v1/(?:models|chat|completions)"),
        "The vLLM server wants a key, and the client sent none or another.",
        "give the client the key that the server was started with (VLLM_API_KEY or --api-key)",
        tier=Tier.GENERAL,
    ),
    Signature(
        Cause.VLLM_DOWN,
        (
            r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[?::1\]?)\W{0,3}(?:, port=)?:?(?:800\d|8080)\b"
            r"[^\n]{0,200}(?:connection refused|actively refused|failed to establish|econnrefused)",
            r"(?:connection refused|failed to connect|econnrefused)[^\n]{0,120}(?:localhost|"
            r"127\.0\.0\.1)\D{1,8}(?:800\d|8080)\b",
            r"connection refused to vllm",
            r"(?:connect call failed|cannot connect to host|connection attempts failed)[^\n]{0,80}"
            r"(?:localhost|127\.0\.0\.1)\D{1,8}(?:800\d|8080)\b",
            r"openai\.apiconnectionerror: connection error",
        ),
        "Nothing listens at the address of the vLLM server.",
        "gearshift status shows what runs; start it with gearshift serve, and see that "
        "VLLM_BASE_URL has its port",
        tier=Tier.GENERAL,
    ),
    Signature(
        Cause.EMBEDDING_DIMENSION,
        (
            r"embedding dimension \d+ does not match collection dimensionality \d+",
            r"(?:embedding|vector) dimension (?:mismatch|error)",
            r"dimension mismatch:? [^\n]{0,80}(?:vector|embedding|index|collection)",
            r"dimensionality of \(?\d+\)? does not match",
            r"embedding dim(?:ension)?s? mismatch",
            r"mismatch(?:ed|es)? in the (?:reported )?dimensions",
            r"mismatched ?dimension|invalid ?dimension ?exception",
            r"(?:embedding|vector)s?[^\n]{0,40} dimensions? (?:do|does) not match",
            r"expected (?:a )?(?:vector|embedding)s? (?:of|with) (?:dimension|size|length)s? \d+",
            r"array at index 0 has size \d+ and the array at index 1 has size \d+",
            r"(?:vector|embedding) dimension \d+ does not match the dimension of the index \d+",
            r"query dim\(\d+\) doesn't match the column \w+ (?:vector )?dim\(\d+\)",
            r"different (?:vector|number of) dimensions? \[?\d+\]? (?:than|and)",
            r"expected \d+ dimensions, not \d+",
            r"assert d == self\.d\b",
            r"shapes \(\d+,\d*\) and \(\d+,\d*\) not aligned",
            r"vector lengths don't match: \d+ vs\.? \d+",
            r"expect(?:ed|ing) (?:embedding|vector)s? (?:with |of )?dimension",
        ),
        "The documents were indexed with another embedding model than the one asked now.",
        "index them anew with the model that is used now (gearshift rebuild), or go back to the "
        "earlier one",
    ),
    Signature(
        Cause.ENGINE_START,
        (
            r"engine core initialization failed",
            r"enginecore failed to start",
            r"engine process failed to start",
            r"workerproc (?:initialization|init) failed",
            r"failed core proc\(?s?\)?",
            r"enginecore hit an exception",
        ),
        "The engine did not start; this line only wraps the error that came before it.",
        "look above this line for the first error of an EngineCore or Worker process; with "
        "VLLM_LOGGING_LEVEL=DEBUG the log says more",
        tier=Tier.WRAPPER,
    ),
    Signature(
        Cause.ENGINE_DEAD,
        (
            r"engine ?dead ?error",
            r"enginecore encountered an issue",
            r"enginedead\b",
            r"background loop (?:has errored|is stopped|is not running)",
            r"engine loop (?:has died|is not running)",
            r"asyncllmengine has failed",
            r"task finished unexpectedly",
            r"worker proc \S+ died unexpectedly",
            r"rpc call to \w+ timed out",
            r"enginecore(?:_\w+)? (?:proc \S+ )?(?:died|has died|terminated) unexpectedly",
        ),
        "The engine ended while it served; this line only wraps the error that came before it.",
        "look above this line for the first error (if there is none, the system may have ended it: "
        "sudo dmesg | grep -i oom); start the server again, and if it recurs with --enforce-eager",
        tier=Tier.WRAPPER,
    ),
)
