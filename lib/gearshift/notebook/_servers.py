"""vLLM servers of a notebook: started with their progress shown, and ended with the kernel."""

from __future__ import annotations

import atexit
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gearshift.engine import environment, servers
from gearshift.engine.environment import Engine
from gearshift.engine.processes import alive
from gearshift.engine.records import LIVING, Record
from gearshift.engine.start import Wish, carry_out, prepare
from gearshift.errors import EngineError
from gearshift.migrate.convert import convert
from gearshift.migrate.serving import checkpoint_folder
from gearshift.notebook import _tiny_child
from gearshift.providers._llama_server import MODEL_NAME, weights
from gearshift.settings import environment_for_vllm, load_settings

SMALL_MODEL = "SmolLM2-135M-Instruct"
"""What the checkpoint of the embedded model is called."""

_started: set[int] = set()
"""The ports of the servers that this notebook has started."""


def install_vllm() -> Engine:
    """Makes the environment for vLLM, if there is none that works; the packages are not listed.

    Raises:
        EngineError: it cannot be made, or what was made does not work.
    """
    settings = load_settings()
    found = environment.check(settings)
    if found.ok:
        return found
    print(found.problem)
    show = progress()

    def on_line(line: str) -> None:
        if not line.startswith(" + "):
            show(line, None)

    return environment.install(settings, on_line=on_line)


def has_vllm() -> bool:
    """Whether vLLM is installed; says so if it is not."""
    settings = load_settings()
    there = settings.vllm_python is not None or environment.installed(settings)
    if not there:
        print("vLLM is not installed yet, notebook 04 does that: what needs it is skipped here")
    return there


def small_model() -> Path:
    """A checkpoint of the embedded model, made once; vLLM serves it.

    Raises:
        EngineError: it cannot be made, or vLLM is not installed (its Python does the work).
    """
    settings = load_settings()
    folder = checkpoint_folder(SMALL_MODEL, settings)
    return convert(weights(), folder, settings, progress()).folder


def tiny_model(heads: int = 8, kv_heads: int = 4) -> Path:
    """A model with random weights and so many heads, made once; it says nothing sensible.

    Raises:
        EngineError: it cannot be made, or vLLM is not installed (its Python does the work).
    """
    settings = load_settings()
    folder = checkpoint_folder(f"tiny-{heads}-{kv_heads}", settings)
    if not (folder / "model.safetensors").is_file():
        python = str(environment.python(settings))
        made = subprocess.run(
            [python, "-W", "ignore", _tiny_child.__file__, str(folder), str(heads), str(kv_heads)],
            capture_output=True,
            text=True,
            env=environment_for_vllm(),
        )
        if made.returncode != 0:
            raise EngineError("model", made.stderr.strip()[-2000:], "gearshift engine check")
    return folder


def serve(model: Path | str, **wish: Any) -> Record:
    """Starts a vLLM server at `VLLM_BASE_URL` and waits until it is ready, its stages shown.

    One that serves the model there already is taken as it is, and left by `stop`. The small model
    answers to its Ollama name, too.

    Args:
        wish: Fields of `Wish`, and of `Launch` in `choices`.

    Raises:
        EngineError: it is refused, or fails; its log is then the doctor's to read.
    """
    settings = load_settings()
    if Path(model) == checkpoint_folder(SMALL_MODEL, settings):
        wish.setdefault("names", (MODEL_NAME,))
    wanted = prepare(Wish(str(model), **wish), settings).record.launch
    there = servers.find_on(wanted.port, settings)
    if there is not None and there.state in LIVING and there.launch.model == wanted.model:
        print(f"{there.name} runs already")
        return servers.wait(wanted.port, settings)
    show, began = progress(), time.monotonic()

    def on_change(now: Record) -> None:
        _started.add(now.launch.port)
        show(now.stage, None)

    record = carry_out(Wish(str(model), **wish), settings, on_change)
    print(f"{record.name} is {record.state} after {time.monotonic() - began:.0f} s: {record.url}")
    return record


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def processes(record: Record) -> list[dict[str, str]]:
    """Names and memory of the processes that belong to a server now, the largest first."""
    there = servers.find_on(record.launch.port, load_settings())
    found = []
    for process in there.tree if there else ():
        with suppress(psutil.NoSuchProcess):
            one = psutil.Process(process.pid)
            found.append((one.memory_info().rss, one.name()))
    return [
        {"process": name, "memory": f"{size / 2**30:.1f} GiB"}
        for size, name in sorted(found, reverse=True)
    ]


def stop(record: Record) -> None:
    """Ends a server that this notebook started, and makes sure that nothing of it is left."""
    if record.launch.port not in _started:
        print(f"{record.name} was there before this notebook, and stays")
        return
    _started.remove(record.launch.port)
    ended = servers.stop(record, load_settings(), 0.0)
    if left := [process.pid for process in record.tree if alive(process)]:
        raise EngineError("unkillable", f"{record.name} still has processes: {left}")
    print(f"{ended.name} is {ended.state}; none of its processes is left")


@atexit.register
def _stop_all() -> None:
    for port in _started:
        settings = load_settings()
        if (record := servers.find_on(port, settings)) is not None:
            servers.stop(record, settings, 0.0)


def progress() -> Callable[[str, float | None], None]:
    """Prints each stage once, with the seconds since the first."""
    began, last = time.monotonic(), ""

    def show(words: str, share: float | None) -> None:
        nonlocal last
        if words and words != last:
            last = words
            print(f"{time.monotonic() - began:4.0f} s  {words}")

    return show
