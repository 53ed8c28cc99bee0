"""Names and values that are set: in `.env`, in the environment, and against what is there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from urllib.request import getproxies_environment, proxy_bypass

from gearshift.doctor.checks._base import Finding, Machine, failed, passed, unknown, warning
from gearshift.settings import (
    ENV_FILE,
    environment_values,
    file_values,
    setting_names,
    visible_gpus,
)

_ALIKE = 0.8  # OLLAMA_URL and OLLAMA_BASE_URL are; OPENAI_BASE_URL and OLLAMA_BASE_URL are not
_OURS = "GEARSHIFT_"


def check_env_file(machine: Machine) -> Finding:
    """Are all names known that look like ours, in `.env` and in the environment?"""
    wrong = _misspelt(file_values())
    if wrong:
        edits = [rf"-e 's/\b{name}\b/{m}/I'" if m else rf"-e '/\b{name}\b/Id'" for name, m in wrong]
        return warning(f"{ENV_FILE} sets {_listed(wrong)}", f"sed -i {' '.join(edits)} {ENV_FILE}")
    wrong = _misspelt(environment_values())
    if wrong:
        renamed = [f'export {meant}="${name}"' for name, meant in wrong if meant]
        unset = f"unset {' '.join(name for name, _ in wrong)}"
        return warning(f"the environment sets {_listed(wrong)}", "; ".join([*renamed, unset]))
    if not ENV_FILE.is_file():
        return passed("there is no .env: the defaults and the environment count")
    return passed(f"all names in {ENV_FILE} that look like ours are known")


def _misspelt(names: Iterable[str]) -> list[tuple[str, str | None]]:
    """Names that look like ours and are none, each with the one that may be meant."""
    known = setting_names()
    found: list[tuple[str, str | None]] = []
    for name in sorted(set(names) - set(known)):
        alike = difflib.get_close_matches(name, known, 1, _ALIKE)
        if alike or name.startswith(_OURS):
            found.append((name, alike[0] if alike else None))
    return found


def _listed(wrong: list[tuple[str, str | None]]) -> str:
    named = [f"{name}, perhaps meant as {meant}" if meant else name for name, meant in wrong]
    return f"{'; '.join(named)}: nobody reads that"


def check_environment(machine: Machine) -> Finding:
    """Does the environment set what `.env` sets otherwise? It wins."""
    ours, theirs = file_values(), environment_values()
    hidden = [n for n in setting_names() if n in ours and theirs.get(n, ours[n]) != ours[n]]
    if hidden:
        return warning(
            f"the environment sets {', '.join(hidden)}, so those in {ENV_FILE} do not count",
            f"unset {' '.join(hidden)}",
        )
    return passed("the environment overrides nothing in .env")


def check_gpu_count(machine: Machine) -> Finding:
    """Are there as many GPUs as the settings share models over?"""
    settings, gpus = machine.settings, machine.gpus
    count, size = settings.vllm_gpu_count, settings.vllm_tensor_parallel_size
    said = f"VLLM_GPU_COUNT={count}, VLLM_TENSOR_PARALLEL_SIZE={size}"
    if not gpus.known or not gpus.gpus:
        if count == size == 1:
            return passed(said)
        why = gpus.problem or "no GPU was found"
        return unknown(f"{said}; {why}", "export VLLM_GPU_COUNT=1 VLLM_TENSOR_PARALLEL_SIZE=1")
    here = min(len(gpus.gpus), len(visible_gpus()) or len(gpus.gpus))
    correct = f"export VLLM_GPU_COUNT={here} VLLM_TENSOR_PARALLEL_SIZE=1, or correct {ENV_FILE}"
    if size > here:
        return failed(f"{said}, and {here} can be used", correct)
    if count > here:
        return warning(f"{said}, and {here} can be used", correct)
    return passed(f"{said}, and {here} can be used")


_LOCAL = ("localhost", "127.0.0.1")


def check_proxy(machine: Machine) -> Finding:
    """Would a proxy swallow requests to this machine?"""
    proxies = getproxies_environment()
    swallowing = sorted(proxies.keys() & {"http", "all"})
    if not swallowing:
        return passed("no proxy is set for http")
    missing = [host for host in _LOCAL if not proxy_bypass(host)]
    if missing:
        names = " and ".join(f"{name.upper()}_PROXY" for name in swallowing)
        return warning(
            f"{names} would send requests to {', '.join(missing)} to a proxy: Gearshift goes "
            "past it, curl, Ollama's command and other clients do not",
            'export NO_PROXY="localhost,127.0.0.1,::1${NO_PROXY:+,$NO_PROXY}" && '
            'export no_proxy="$NO_PROXY"',
        )
    return passed("requests to this machine go past the proxy")
