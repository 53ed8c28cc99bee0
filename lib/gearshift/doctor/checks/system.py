"""The system below everything: Python, the operating system, WSL."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import psutil
from packaging.specifiers import SpecifierSet

from gearshift.doctor.checks._base import GIB, Finding, Machine, passed, warning
from gearshift.settings import environment_values

_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_ADVISED = SpecifierSet(">=3.10,<3.13")  # by the guide


def check_python(machine: Machine) -> Finding:
    """Does Python suit Gearshift and vLLM, whose environment is made with it?"""
    version = platform.python_version()
    wanted = importlib.metadata.metadata("gearshift")["Requires-Python"]
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return warning(
            f"Python is {version}; Gearshift is made for {wanted}",
            "use another one: rm -rf .venv && make PYTHON=python3.12 run",
        )
    if not _ADVISED.contains(version, prereleases=True):
        return passed(f"Python {version}, newer than the guide knows")
    return passed(f"Python {version}")


def wsl_version() -> int | None:
    """Which WSL this is; `None` outside of it."""
    release = platform.release().lower()
    if "microsoft" not in release:
        return None
    # WSL 1 has no kernel of its own: it calls itself 4.4.0-22621-Microsoft.
    return 1 if release.endswith("-microsoft") and release.startswith("4.4.0") else 2


def in_container() -> bool:
    """Whether we run in a container of Docker or Podman."""
    return any(mark.exists() for mark in _MARKS)


def check_operating_system(machine: Machine) -> Finding:
    """Is it one that vLLM runs on with GPUs: Linux, or WSL 2?"""
    system, architecture = platform.system(), platform.machine()
    if system == "Windows":
        return warning("this is Windows; vLLM needs Linux", "install WSL 2: wsl --install")
    if system != "Linux":
        return warning(
            f"this is {system}; vLLM uses GPUs on Linux only",
            "stay with Ollama here, or run vLLM on a Linux machine and open a tunnel to it: "
            "ssh -L 8001:localhost:8001 HOST",
        )
    if wsl_version() == 1:
        return warning(
            "this is WSL 1, which gives no access to GPUs",
            "convert it, in Windows: wsl --set-version DISTRIBUTION 2",
        )
    if architecture not in ("x86_64", "aarch64"):
        return warning(
            f"the processor is {architecture}; vLLM's packages are made for x86_64 and aarch64",
            "stay with Ollama here: gearshift switch ollama",
        )
    kind = "WSL 2" if wsl_version() else "Linux"
    return passed(f"{kind} {platform.release()} on {architecture}")


def check_wsl(machine: Machine) -> Finding:
    """Is WSL set up for models: its share of the memory, and pinned memory for transfers?"""
    if wsl_version() is None:
        return passed("this is not WSL")
    quirks, todo = [], []
    total = psutil.virtual_memory().total
    if total < 30e9:
        quirks.append(f"it has {total / GIB:.0f} GiB of memory: by default half of Windows'")
        todo.append(
            "raise memory= under [wsl2] in .wslconfig in Windows (notepad %UserProfile%\\.wslconfig"
            "), then: wsl --shutdown"
        )
    if "VLLM_WSL2_ENABLE_PIN_MEMORY" not in environment_values():
        quirks.append("vLLM does not pin memory in WSL, so transfers to the GPU are slower")
        todo.append("export VLLM_WSL2_ENABLE_PIN_MEMORY=1")
    if machine.gpus.gpus:
        quirks.append("it does not tell which processes hold GPU memory")
    if not todo:
        return passed("; ".join(["WSL is set up for models", *quirks]))
    return warning("; ".join(quirks), "; ".join(todo))
