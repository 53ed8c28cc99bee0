"""The machine: vLLM itself, the port, memory."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess

import psutil

from gearshift.engine import environment as engine
from gearshift.engine.checks._base import GIB, Check, Plan, passed, refused, unknown
from gearshift.engine.models import Model
from gearshift.engine.processes import name_of, port_owner
from gearshift.engine.records import Place

_SHARED_MEMORY = "/dev/shm"  # noqa: S108


def check_engine(plan: Plan) -> Check:
    """Is there a vLLM to start?"""
    python = plan.settings.vllm_python
    if plan.docker:
        return _check_docker()
    if python is not None:
        if os.access(python, os.X_OK):
            return passed("engine", f"GEARSHIFT_VLLM_PYTHON is {python}")
        hint = "set it to the Python of an environment that has vLLM"
        return refused("engine", f"GEARSHIFT_VLLM_PYTHON={python} is no program", hint)
    if engine.installed(plan.settings):
        return passed("engine", f"vLLM is in {engine.folder(plan.settings)}")
    return unknown("engine", "vLLM is not installed yet; serve installs it first")


def _check_docker() -> Check:
    hint = "install and start Docker, or leave --docker"
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return refused("engine", "there is no docker command", hint)
    except subprocess.TimeoutExpired:
        return refused("engine", "Docker does not answer within 10 s", hint)
    if found.returncode != 0:
        why = (found.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return refused("engine", f"no Docker engine answers: {why}", hint)
    return passed("engine", f"Docker {found.stdout.strip()} answers")


def check_port(plan: Plan) -> Check:
    """Is the port free, and whose is it if not?"""
    port = plan.launch.port
    # A server on ::1 alone would get the requests that are meant for "localhost".
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        code = _bind(family, address, port)
        if code in (errno.EACCES, errno.EPERM):
            hint = "take a port from 1024 on"
            return refused("port", f"only root may listen on port {port}", hint)
        if code == errno.EADDRINUSE:
            record = Place(plan.settings, port).read()
            if record is not None and record.is_supervised():
                hint = f"stop it first, or take another port, such as {port + 1}"
                return refused("port", f"port {port} is in use by our server {record.name}", hint)
            owner = port_owner(port)
            by = f" by {name_of(owner.pid)} (pid {owner.pid})" if owner else ""
            hint = f"end that program, or take another port, such as {port + 1}"
            return refused("port", f"port {port} is already in use{by}", hint)
    return passed("port", f"port {port} is free")


def _bind(family: int, address: str, port: int) -> int | None:
    """What forbids to listen there, `None` if nothing does."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)  # with SO_REUSEADDR, a port whose listener is elsewhere can be bound
    except OSError as wrong:
        return wrong.errno
    return None


def check_shared_memory(plan: Plan) -> Check:
    """Have the ranks room to pass data to each other?"""
    if plan.ranks == 1:
        return passed("shared_memory", "one rank needs none")
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return unknown("shared_memory", "there is no /dev/shm", "in a container: --ipc=host")
    if free < GIB:
        return unknown(
            "shared_memory",
            f"shared memory has only {free / GIB:.2f} GiB free, which ranks may not get by with",
            "in a container: --ipc=host, or --shm-size=8g",
        )
    return passed("shared_memory", f"shared memory has {free / GIB:.1f} GiB free")


def check_memory(plan: Plan) -> Check:
    """On a processor the weights go to main memory: is there enough?"""
    size = _weights(plan.model)
    if not plan.launch.cpu or size is None:
        return passed("memory", "nothing speaks against it")
    free = psutil.virtual_memory().available
    if size > free:
        return refused(
            "memory",
            f"its weights have {size / GIB:.1f} GiB and {free / GIB:.1f} GiB of memory are free",
            "take a smaller model, or end other programs",
        )
    return passed("memory", f"{free / GIB:.1f} GiB free for {size / GIB:.1f} GiB of weights")


def _weights(model: Model) -> int | None:
    """Bytes of the weights on disk, `None` if they are not here."""
    if model.folder is None:
        return None
    files = list(model.folder.glob("*.safetensors")) or list(model.folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files) or None
