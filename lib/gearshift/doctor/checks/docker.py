"""Docker, which the guide recommends, and its way to the GPUs."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from gearshift.doctor.checks._base import Finding, Machine, passed, unknown, warning

_SECONDS = 10.0
_TOOLKIT = (
    "with NVIDIA's container toolkit installed: sudo nvidia-ctk runtime configure "
    "--runtime=docker && sudo systemctl restart docker"
)


def check_docker(machine: Machine) -> Finding:
    """Does Docker answer, and can its containers use the GPUs?"""
    command = ["docker", "info", "--format", "{{json .}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError:
        return passed("there is no Docker; only gearshift serve --docker needs it")
    except OSError as wrong:
        return unknown(f"docker cannot be started: {wrong.strerror}", "ls -l $(command -v docker)")
    except subprocess.TimeoutExpired:
        return warning(
            f"Docker does not answer within {_SECONDS:.0f} s", "sudo systemctl restart docker"
        )
    facts = _facts(done.stdout)
    if facts is None or not facts.get("ServerVersion"):
        errors = (facts or {}).get("ServerErrors") or done.stderr.strip().splitlines()[-1:]
        why = str(errors[0]) if errors else f"it ended with status {done.returncode}"
        if "permission denied" in why.lower():
            return warning(
                "this user may not speak to Docker",
                "sudo usermod -aG docker $USER, then log in again",
            )
        return unknown(
            f"no Docker engine answers: {why}",
            "only gearshift serve --docker needs it; start it: sudo systemctl start docker",
        )
    said = f"Docker {facts['ServerVersion']}"
    if "nvidia" in (facts.get("Runtimes") or {}):
        return passed(f"{said} with the NVIDIA runtime")
    devices = facts.get("DiscoveredDevices") or []
    if any("nvidia.com/gpu" in str(device) for device in devices):
        return passed(f"{said} with the GPUs as devices (CDI)")
    if machine.gpus.gpus:
        return warning(f"{said} has no NVIDIA runtime: containers get no GPU", _TOOLKIT)
    return passed(f"{said}; without an NVIDIA runtime, and there is no GPU")


def _facts(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
