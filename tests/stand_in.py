"""A Python that has a stand-in for vLLM, for faults that the real one does not show on demand."""

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

_PACKAGE = Path(__file__).parent / "vllm_stand_in"


def small_model(folder: Path) -> Path:
    """A model's folder that the checks and the plan take for one; the stand-in loads nothing."""
    folder.mkdir(parents=True)
    shape = {
        "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 384,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape), "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def stand_in(
    folder: Path,
    *,
    start_seconds: float = 0.5,
    ignore_term: bool = False,
    lose_term_in_startup: bool = False,
    crash: Literal["oom", "heads", "engine", "killed"] | None = None,
    crash_with_children: bool = False,
    hang: bool | Literal["shm"] = False,
    never_healthy: bool = False,
    wrong_name: bool = False,
    no_token: bool = False,
    noisy: float = 0,
    long_line: float = 0,
    print_secrets: bool = False,
    slow_tokens: float = 0.01,
    detached_worker: bool = False,
    worker_lingers: float = 14.0,
    exit_after: float | None = None,
    measures: tuple[float, float, int] | None = None,
    batching: float | None = None,
    room: int | None = None,
) -> Path:
    """The path of a Python, to be set as `GEARSHIFT_VLLM_PYTHON`, that runs the stand-in.

    Called again with the same folder, it changes what the next start plays. Every process ends by
    itself after ten minutes; "for ever" below means that.

    Args:
        folder: Where the Python and the record of its processes are written.
        start_seconds: How long a start takes.
        ignore_term: All three processes ignore SIGTERM.
        lose_term_in_startup: All three ignore it until the server is ready.
        crash: The start fails: the Worker is out of memory; the heads do not divide (the API
            server finds that alone, before there are others, and writes no wrapper); EngineCore
            has too little room for its cache; or EngineCore is killed (the Worker lingers).
        crash_with_children: The API server dies, EngineCore and Worker live on: at the end of the
            start, or with `exit_after` that long after it.
        hang: Some lines of log and then nothing for ever; with "shm" the same line for ever.
        never_healthy: `/health` gives 503.
        wrong_name: It serves another model than was asked for.
        no_token: Requests for text or vectors give 500.
        noisy: Megabytes of log during the start.
        long_line: Megabytes of one line of log during the start.
        print_secrets: Writes its arguments and its environment to the log.
        slow_tokens: Seconds for each token.
        detached_worker: The Worker is no descendant, does not hold our output open, and nobody
            else ends it.
        worker_lingers: How long the Worker lives when EngineCore has been killed.
        measures: What it logs of a GPU: GiB of weights, GiB and tokens of KV cache.
        batching: At most `--max-num-seqs` requests run at once, the others wait in turn, and a
            first token takes so many seconds for each that runs, less with more
            `--max-num-batched-tokens`: by 2048 / that.
        room: The start fails when sequences times batched tokens are more than that.
        exit_after: The API server ends itself and the others that long after being ready.
    """
    plays = {name: value for name, value in locals().items() if name != "folder"}
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plays.json").write_text(json.dumps(plays), "utf-8")
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f"VLLM_STAND_IN={shlex.quote(str(folder / 'plays.json'))}\n"
        f"PYTHONPATH={shlex.quote(str(_PACKAGE))}\n"
        "export VLLM_STAND_IN PYTHONPATH\n"
        f'exec {shlex.quote(sys.executable)} "$@"\n',
        "utf-8",
    )
    python.chmod(0o755)
    return python


class Started(NamedTuple):
    """A process of the stand-in; `start` is in clock ticks, as in /proc/PID/stat."""

    role: Literal["api", "engine", "worker"]
    pid: int
    start: int
    arguments: list[str]


def stand_in_starts(folder: Path) -> list[Started]:
    """Every process that there ever was, the oldest first."""
    try:
        lines = (folder / "processes.txt").read_text("utf-8").splitlines()
    except OSError:
        return []
    fields = (line.split(" ", 3) for line in lines)
    return [Started(role, int(pid), int(start), json.loads(a)) for role, pid, start, a in fields]


def stand_in_processes(folder: Path) -> dict[int, str]:
    """Those that are still there, and are no zombies: the role of each pid."""
    return {one.pid: one.role for one in stand_in_starts(folder) if _lives(one)}


def end_stand_in(folder: Path) -> None:
    """Kills all that are still there, and those that they were about to start."""
    quiet = time.monotonic()
    while time.monotonic() - quiet < 0.1:
        for one in stand_in_starts(folder):
            if _lives(one):
                _kill(one)
                quiet = time.monotonic()
        time.sleep(0.01)


def _kill(one: Started) -> None:
    try:
        held = os.pidfd_open(one.pid)
    except ProcessLookupError:
        return
    try:
        if _lives(one):  # looked at while the pid is held, so it cannot be another one's
            signal.pidfd_send_signal(held, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(held)


def _lives(one: Started) -> bool:
    try:
        text = Path(f"/proc/{one.pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    fields = text.rpartition(")")[2].split()
    return fields[0] not in "ZX" and int(fields[19]) == one.start
