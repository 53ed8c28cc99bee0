"""The two processes behind the API server: EngineCore, and its Worker in a session of its own."""

import os
import signal
import time
from contextlib import suppress
from math import ceil

from vllm import _failures
from vllm._role import FOREVER, ChildGone, Role, Terminated, rename, write

BLOCKS, BLOCK_SIZE = 364, 128
"""KV blocks, and tokens in each."""


class EngineCore(Role):
    """Starts the Worker, and tells `ready` when that has loaded."""

    def __init__(self, options, plays, started, model: str, ready: int) -> None:
        super().__init__("EngineCore", options, plays, started)
        self.model, self.ready = model, ready

    def run(self) -> int:
        rename("VLLM::EngineCore")
        up = False
        try:
            self._start()
            os.write(self.ready, b"1")
            up = True
            self.pause(FOREVER)
        except Terminated:
            pass
        except ChildGone as gone:
            if up:
                text = _failures.worker_died(gone.status)
                self.log("multiproc_executor.py:316", text, "ERROR")
            else:
                self.log("core.py:1510", "EngineCore failed to start.", "ERROR")
                self.log("core.py:1510", _failures.WORKER_FAILED, "ERROR")
            return 1 if gone.status >= 0 else -gone.status
        except _Failed:
            self.end_child()
            return 1
        self.end_child()
        return 0

    def _start(self) -> None:
        tp = self.option("tensor-parallel-size", "1")
        config = _failures.long_config(self.model, tp)
        self.say(
            0.1,
            ("core.py:133", f"Initializing a V1 LLM engine (v0.32.0) with config: {config}"),
        )
        loaded = self._start_worker()
        if self.plays.hang:
            self._hang()
        if self.plays.crash == "killed":
            self.pause(0.3 * self.plays.start_seconds)
            os.kill(self.pid, signal.SIGKILL)
        self.wait_for(loaded)
        if self.plays.crash == "engine":
            self.log("core.py:1510", "EngineCore failed to start.", "ERROR")
            self.log("core.py:1510", _failures.KV_TOO_SMALL, "ERROR")
            raise _Failed
        sequences, batched = batch_of(self.option)
        if self.plays.room is not None and sequences * batched > self.plays.room:
            self.log("core.py:1510", "EngineCore failed to start.", "ERROR")
            self.log("core.py:1510", _failures.sampler_out_of_memory(sequences), "ERROR")
            raise _Failed
        length = max_model_len(self.option("max-model-len", ""))
        concurrency = BLOCKS / ceil(length / BLOCK_SIZE)
        size = int(concurrency * length)
        if self.plays.measures:
            weights, available, size = self.plays.measures
            self.log("gpu_model_runner.py:5020", f"Model loading took {weights} GiB memory and 3 s")
            self.log("gpu_worker.py:462", f"Available KV cache memory: {available} GiB")
        self.say(
            0.1,
            (
                "kv_cache_utils.py:2327",
                f"{'GPU' if self.plays.measures else 'CPU'} KV cache size: {size:,} tokens, "
                f"Maximum concurrency for {length:,} tokens per request: {concurrency:.2f}x",
            ),
            (
                "core.py:402",
                "init engine (profile, create kv cache, warmup model) took 0.12 s",
            ),
        )

    def _start_worker(self) -> int:
        """Where the Worker will write a byte when it has loaded."""
        loaded, tell = os.pipe()
        parent_lives, held_open = os.pipe()

        def worker() -> int:
            for mine_not in (held_open, loaded, self.ready):
                os.close(mine_not)
            shared = self.options, self.plays, self.started
            return Worker(*shared, self.model, tell, parent_lives).run()

        def middle() -> int:
            self.fork(worker)
            return 0

        if self.plays.detached_worker:
            os.waitpid(self.fork(middle), 0)
        else:
            self.child = self.fork(worker)
        os.close(tell)
        os.close(parent_lives)
        self.held_open = held_open  # the Worker reads its end when we are gone, however we went
        return loaded

    def _hang(self) -> None:
        while self.plays.hang == "shm":
            self.pause(0.2)
            self.log("shm_broadcast.py:681", _failures.NO_SHARED_MEMORY_BLOCK)
        self.pause(FOREVER)


class Worker(Role):
    """Loads, and lives on for a while when EngineCore is gone without having ended it."""

    def __init__(self, options, plays, started, model: str, loaded: int, parent_lives: int) -> None:
        os.setsid()
        if plays.detached_worker:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        super().__init__("Worker", options, plays, started)
        self.model, self.loaded, self.parent_lives = model, loaded, parent_lives

    def run(self) -> int:
        rename("VLLM::Worker")
        try:
            return self._run()
        except Terminated:
            return 0

    def _run(self) -> int:
        self.log("cpu_model_runner.py:68", f"Starting to load model {self.model}...")
        self._make_noise()
        self._load()
        if self.plays.hang:
            self.pause(FOREVER)
        if self.plays.crash == "oom":
            self.log("multiproc_executor.py:953", "WorkerProc failed to start.", "ERROR")
            self.log("multiproc_executor.py:953", _failures.OUT_OF_MEMORY, "ERROR")
            return 1
        self.log("default_loader.py:501", "Loading weights took 0.52 seconds")
        with suppress(BrokenPipeError):  # EngineCore may be gone already
            os.write(self.loaded, b"1")
        os.set_blocking(self.parent_lives, False)
        while self._has_parent():
            self.pause(0.1)
        self.pause(FOREVER if self.plays.detached_worker else self.plays.worker_lingers)
        return 0

    def _has_parent(self) -> bool:
        try:
            return bool(os.read(self.parent_lives, 1))
        except BlockingIOError:
            return True

    def _load(self) -> None:
        shards = 2
        half = self.plays.hang or self.plays.crash == "oom"  # they do not get as far as the end
        for done in range(shards if half else shards + 1):
            self.pause(0.5 * self.plays.start_seconds / (shards + 1))
            write(
                f"\rLoading safetensors checkpoint shards: {100 * done // shards:3d}% Completed"
                f" | {done}/{shards} [00:00<00:00,  3.57it/s]\n",
                2,
            )

    def _make_noise(self) -> None:
        if self.plays.long_line:
            write("x" * int(self.plays.long_line * 1_000_000) + "\n")
        written, number = 0, 0
        while written < self.plays.noisy * 1_000_000:
            stamp = time.strftime("%m-%d %H:%M:%S")
            start = f"({self.name} pid={self.pid}) DEBUG {stamp} [noise.py:1] "
            block = "".join(f"{start}{number + i} {'noise ' * 10}\n" for i in range(30))
            write(block)
            written += len(block)
            number += 30


class _Failed(Exception):
    pass


def batch_of(option) -> tuple[int, int]:
    """Sequences and tokens of a step, by the defaults of the CPU build."""
    return int(option("max-num-seqs", "128")), int(option("max-num-batched-tokens", "2048"))


def max_model_len(text: str) -> int:
    return int(text) if text.isdigit() else 2048
