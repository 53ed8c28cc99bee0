"""vLLM servers of a notebook: started with their progress shown, and ended with the kernel."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gearshift import gpu
from gearshift.engine import environment, servers
from gearshift.engine.environment import Engine
from gearshift.engine.processes import alive, name_of, port_owner, processors, somebody_listens
from gearshift.engine.records import LIVING, Record, State
from gearshift.engine.start import Start, Wish, carry_out, prepare
from gearshift.errors import EngineError
from gearshift.migrate.convert import convert
from gearshift.migrate.serving import checkpoint_folder
from gearshift.notebook import _tiny_child
from gearshift.providers import LLMServiceFactory
from gearshift.providers._llama_server import MODEL_NAME, weights
from gearshift.settings import (
    Settings,
    environment_for_vllm,
    load_settings,
    variable_name,
    visible_gpus,
)

SMALL_MODEL = "SmolLM2-135M-Instruct"
"""What the checkpoint of the embedded model is called."""

_SMALL_GIB = 1.0
"""Checkpoints below that are for learning, and leave the cards to others: one, and a part of it."""

_SMALL_SHARE = 0.25
"""Of the card's memory, for one of them: beside it an Ollama or another vLLM has room."""

_ROLES = {"VLLM::EngineCore": "engine", "VLLM::Worker": "worker"}
"""What vLLM calls its processes, and what they are."""

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
    if not folder.is_dir():
        python, part = str(environment.python(settings)), folder.with_name(f".{folder.name}.part")
        made = subprocess.run(
            [python, "-W", "ignore", _tiny_child.__file__, str(part), str(heads), str(kv_heads)],
            capture_output=True,
            text=True,
            env=environment_for_vllm(),
        )
        if made.returncode != 0:
            shutil.rmtree(part, ignore_errors=True)
            raise EngineError("model", made.stderr.strip()[-2000:], "gearshift engine check")
        part.replace(folder)
    return folder


def serve(model: Path | str, **wish: Any) -> Record:
    """Starts a vLLM server at `VLLM_BASE_URL` and waits until it is ready, its stages shown.

    One that runs there with the same options is taken as it is, and left by `stop` unless this
    notebook has started it. If the port is held by anything else, a free one is taken, and
    `VLLM_BASE_URL` follows, in this process: `load_settings()` then has the new one. The small
    model answers to its Ollama name, too. A checkpoint below 1 GiB gets one rank and a quarter of
    the card's memory, whatever `VLLM_GPU_COUNT` says, unless the cell says otherwise.

    Args:
        wish: Fields of `Wish`, and of `Launch` in `choices`.

    Raises:
        EngineError: it is refused, or fails; its log is then the doctor's to read.
    """
    settings = settings_for(model)
    wanted = planned(model, **wish).record.launch
    there = servers.find_on(wanted.port, settings)
    if there is not None and there.state in LIVING and there.launch == wanted:
        print(f"{there.name} runs already")
        return servers.wait(wanted.port, settings)
    port = wanted.port
    if "port" not in wish and (holder := _holder(port, there)) is not None:
        port = wish["port"] = free_port()
        print(f"port {wanted.port} is held by {holder}; VLLM_BASE_URL is {_ask_at(port)} from now")
    show, began = progress(), time.monotonic()
    _started.add(port)  # before it is: whoever interrupts the start has started it
    try:
        record = carry_out(
            _wish(model, wish), settings_for(model), lambda now: show(now.stage, None)
        )
    except EngineError:
        _started.discard(port)
        raise
    print(f"{record.name} is {record.state} after {time.monotonic() - began:.0f} s: {record.url}")
    return record


def planned(model: Path | str, **wish: Any) -> Start:
    """What `serve` would start; nothing is started.

    Raises:
        EngineError: it contradicts itself.
    """
    return prepare(_wish(model, wish), settings_for(model))


def _wish(model: Path | str, wish: dict[str, Any]) -> Wish:
    if Path(model) == checkpoint_folder(SMALL_MODEL, load_settings()):
        wish = {"names": (MODEL_NAME,)} | wish
    if "profile" not in wish:  # it would lose to them
        wish = wish | {"choices": choices_for(model) | wish.get("choices", {})}
    return Wish(str(model), **wish)


def settings_for(model: Path | str) -> Settings:
    """The settings, but one rank for a small model: its heads need not allow what `.env` says."""
    settings = load_settings()
    if _is_small(model):
        one = {"vllm_gpu_count": 1, "vllm_tensor_parallel_size": 1}
        settings = settings.model_copy(update=one)
    return settings


def choices_for(model: Path | str) -> dict[str, Any]:
    """What a small model is given on a GPU: a part of the memory, so that others have room."""
    if _is_small(model) and gpu.look().gpus:
        return {"memory_utilization": _SMALL_SHARE}
    return {}


def _is_small(model: Path | str) -> bool:
    weights = [file.stat().st_size for file in Path(model).glob("*.safetensors")]
    return 0 < sum(weights) < _SMALL_GIB * (1 << 30)


def _holder(port: int, there: Record | None) -> str | None:
    """Who has a port; `None` if nobody has, or whoever is leaving it."""
    if there is not None and there.state in LIVING:
        return None if there.state is State.STOPPING else there.name
    if not somebody_listens(port):
        return None
    owner = port_owner(port)
    return f"{name_of(owner.pid)} (pid {owner.pid})" if owner else "another program"


def _ask_at(port: int) -> str:
    """Makes this process, and what it starts, ask vLLM at another port; returns the address."""
    url = os.environ[variable_name("vllm_base_url")] = f"http://localhost:{port}"
    load_settings.cache_clear()
    LLMServiceFactory.reset()
    return url


def ranks_here() -> int:
    """How many ranks can be tried: the GPUs that may be used, or processors if there is no GPU."""
    cards = len(gpu.look().gpus)
    return min(cards, len(visible_gpus()) or cards) if cards else len(processors())


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def processes(record: Record) -> list[dict[str, Any]]:
    """The processes that belong to a server now and what each is, the largest first."""
    there = servers.find_on(record.launch.port, load_settings())
    if there is None:
        return []
    known = {there.supervisor: "watches it: ours", there.process: "API server"}
    found = []
    for process in filter(None, {*there.tree, there.supervisor}):
        with suppress(psutil.NoSuchProcess):
            one = psutil.Process(process.pid)
            what = known.get(process) or _ROLES.get(one.name().partition("_")[0], "helper")
            found.append((one.memory_info().rss, one.name(), what, str(one.pid)))
    return [
        {"process": name, "is": what, "pid": pid, "memory": f"{size / 2**20:,.0f} MiB"}
        for size, name, what, pid in sorted(found, reverse=True)
    ]


def stop(record: Record) -> bool:
    """Ends a server that this notebook started, and makes sure that nothing of it is left.

    Returns:
        Whether it has ended; one that was there before is not touched.

    Raises:
        EngineError: a process of it lives on.
    """
    if record.launch.port not in _started:
        print(f"{record.name} was there before this notebook, and stays")
        return False
    _started.remove(record.launch.port)
    ended = servers.stop(record, load_settings(), 0.0)
    if left := [process.pid for process in record.tree if alive(process)]:
        raise EngineError("unkillable", f"{record.name} still has processes: {left}")
    print(f"{ended.name} is {ended.state}; none of its processes is left")
    return True


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
