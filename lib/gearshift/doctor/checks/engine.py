"""vLLM's environment: is it there, do its packages fit each other, and do they fit the driver?"""

from __future__ import annotations

from shlex import quote

from gearshift.doctor.checks._base import Finding, Machine, failed, passed, unknown, warning
from gearshift.engine import environment

_INSTALL = "gearshift engine install"
_ANEW = "gearshift engine remove && gearshift engine install"


def check_engine(machine: Machine) -> Finding:
    """Is vLLM installed, in the version that we install and for what this machine has?"""
    settings, theirs = machine.settings, machine.settings.vllm_python is not None
    python = environment.python(settings)
    if not theirs and not environment.installed(settings):
        if environment.folder(settings).exists():
            return warning(f"{environment.folder(settings)} is half installed", _INSTALL)
        return unknown("vLLM is not installed", f"only if you want it here: {_INSTALL}")
    whose = f"GEARSHIFT_VLLM_PYTHON={python}" if theirs else str(python)
    packages = machine.packages
    if packages is None:
        hint = f"use our own: unset GEARSHIFT_VLLM_PYTHON; {_INSTALL}" if theirs else _ANEW
        return failed(f"{whose} cannot be used: {machine.no_packages}", hint)
    if packages.vllm is None:
        install = f"uv pip install --python {quote(str(python))} --torch-backend=auto vllm"
        return failed(f"{whose} has no vLLM", install if theirs else _ANEW)
    said = f"vLLM {packages.vllm}, torch {packages.torch or '?'} in {python}"
    if not theirs and not environment.up_to_date(settings):
        return warning(f"{said}; this Gearshift installs {environment.VLLM_VERSION}", _INSTALL)
    build, _ = environment.choose_build(machine.gpus)
    if packages.for_cpu and build is environment.Build.CUDA:
        hint = "gearshift engine install --cuda"
        return warning(f"{said}: the build for processors, and there is a GPU", hint)
    return passed(said)


def check_engine_packages(machine: Machine) -> Finding:
    """Is torch the one that vLLM was built for, and do the others fit?"""
    packages = machine.packages
    if packages is None or packages.vllm is None:
        return unknown("vLLM is not installed, so there is nothing to compare", _INSTALL)
    wrong = list(packages.misfits())
    if not wrong:
        return passed(f"torch {packages.torch or '?'} is the one for vLLM {packages.vllm}")
    said = ", ".join(
        f"{one.name} {version} (it asks for {one.specifier})" for one, version in wrong
    )
    hint = _ANEW
    if machine.settings.vllm_python is not None:
        wanted = " ".join(quote(f"{one.name}{one.specifier}") for one, _ in wrong)
        hint = f"uv pip install --python {quote(str(machine.settings.vllm_python))} {wanted}"
    # Compiled parts of vLLM do not load with another torch; other packages may do.
    found = failed if any(one.name == "torch" for one, _ in wrong) else warning
    return found(f"vLLM {packages.vllm} does not fit {said}", hint)


def check_cuda(machine: Machine) -> Finding:
    """Can the driver run the CUDA that the installed torch was built for?"""
    packages, gpus = machine.packages, machine.gpus
    if packages is None or packages.torch is None:
        return unknown("vLLM is not installed, so no CUDA is asked for", _INSTALL)
    if packages.cuda is None:
        return passed(f"torch {packages.torch} runs without CUDA")
    if not gpus.gpus or gpus.cuda is None:
        why = gpus.problem or "the driver does not tell its CUDA version"
        return unknown(f"torch is for CUDA {packages.cuda}; {why}", "nvidia-smi")
    # Within one major version programs run on older drivers, too (minor-version compatibility).
    if int(gpus.cuda.split(".")[0]) < (packages.cuda_major or 0):
        return failed(
            f"torch is for CUDA {packages.cuda}; driver {gpus.driver} runs up to {gpus.cuda}",
            "update the driver, on Ubuntu with: sudo ubuntu-drivers install; or install a vLLM "
            f"for this driver: {_ANEW}",
        )
    return passed(f"torch is for CUDA {packages.cuda}, the driver for up to {gpus.cuda}")
