"""Python, the operating system, WSL, memory, disk, shared memory, Docker."""

import json
import platform
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest

from gearshift.doctor.checks import Status
from gearshift.doctor.checks import resources as places
from gearshift.doctor.checks.docker import check_docker
from gearshift.doctor.checks.resources import check_disk, check_memory, check_shared_memory
from gearshift.doctor.checks.system import check_operating_system, check_python, check_wsl

GIB = 1 << 30
WSL_2 = "6.6.87.2-microsoft-standard-WSL2"
WSL_1 = "4.4.0-22621-Microsoft"
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.11.7", "passed"), ("3.12.1", "passed"), ("3.13.0", "passed"), ("3.10.4", "warning")],
)
def test_python(machine, monkeypatch, version, status):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    found = check_python(machine())
    assert found.status == status
    assert version in found.message


@pytest.mark.parametrize(
    ("system", "release", "architecture", "status", "words"),
    [
        ("Linux", "6.8.0-45-generic", "x86_64", "passed", "Linux"),
        ("Linux", WSL_2, "x86_64", "passed", "WSL 2"),
        ("Linux", WSL_1, "x86_64", "warning", "--set-version"),
        ("Linux", "6.8.0", "riscv64", "warning", "aarch64"),
        ("Darwin", "24.0", "arm64", "warning", "ssh -L"),
        ("Windows", "11", "AMD64", "warning", "wsl --install"),
    ],
)
def test_the_operating_system(machine, monkeypatch, system, release, architecture, status, words):
    for name, value in (("system", system), ("release", release), ("machine", architecture)):
        monkeypatch.setattr(platform, name, lambda value=value: value)
    found = check_operating_system(machine())
    assert found.status == status
    assert words in found.message + found.hint


def test_wsl_has_quirks(machine, card, monkeypatch):
    assert check_wsl(machine()).message == "this is not WSL"
    monkeypatch.setattr(platform, "release", lambda: WSL_2)
    memory(monkeypatch, 16)
    found = check_wsl(machine(card(holders=None)))
    assert found.status is Status.WARNING
    assert "16 GiB" in found.message
    assert "does not tell which processes" in found.message
    assert "VLLM_WSL2_ENABLE_PIN_MEMORY=1" in found.hint
    assert "wsl --shutdown" in found.hint
    memory(monkeypatch, 64)
    monkeypatch.setenv("VLLM_WSL2_ENABLE_PIN_MEMORY", "1")
    assert check_wsl(machine()).status is Status.PASSED


def memory(monkeypatch, gib):
    facts = SimpleNamespace(total=gib * GIB, available=gib * GIB // 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: facts)


def test_memory_and_a_containers_limit(machine, monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    memory(monkeypatch, 31)  # what is sold as 32 GB
    assert check_memory(machine(), [limit]).status is Status.PASSED
    limit.write_text("max\n")
    assert check_memory(machine(), [limit]).status is Status.PASSED
    limit.write_text(f"{8 * GIB}\n")
    found = check_memory(machine(), [limit])
    assert found.status is Status.WARNING
    assert "this container has 8 GiB" in found.message
    memory(monkeypatch, 16)
    assert "32 GB" in check_memory(machine(), []).message


def test_disk(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "there" / "yet"))
    free = {"size": 60e9}
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: Usage(1e12, 0, free["size"]))
    assert check_disk(machine()).status is Status.PASSED
    free["size"] = 20e9
    found = check_disk(machine())
    assert found.status is Status.WARNING
    assert "50 GB" in found.message
    assert "du -sh" in found.hint


def test_a_home_that_cannot_be_written_to(machine, tmp_path):
    in_the_way = tmp_path / "a file's name"
    in_the_way.write_text("")
    found = check_disk(machine(home=in_the_way / "home"))
    assert found.status is Status.FAILED
    assert f"{in_the_way}/home" in found.message
    assert "install -d" in found.hint


def test_a_cache_that_cannot_be_written_to_is_a_warning(machine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert check_disk(machine()).status is Status.WARNING


def test_shared_memory(machine, monkeypatch, tmp_path):
    assert check_shared_memory(machine(), tmp_path / "none").status is Status.UNKNOWN
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    found = check_shared_memory(machine())
    assert found.status is Status.WARNING
    assert "--shm-size" in found.hint
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: Usage(8 * GIB, 0, 8 * GIB))
    assert check_shared_memory(machine()).status is Status.PASSED


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A `docker` that answers so."""

    def make(facts, status=0):
        folder = tmp_path / "bin"
        folder.mkdir()
        text = facts if isinstance(facts, str) else json.dumps(facts)
        script = f"#!/bin/sh\ncat << 'END'\n{text}\nEND\nexit {status}\n"
        (folder / "docker").write_text(script)
        (folder / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return make


GOOD = {"ServerVersion": "28.1", "Runtimes": {"runc": {}}}
DOWN = {"ServerErrors": ["Cannot connect to the Docker daemon"]}
FORBIDDEN = {"ServerErrors": ["permission denied while trying to connect"]}


@pytest.mark.parametrize(
    ("facts", "with_gpu", "status", "words"),
    [
        (GOOD | {"Runtimes": {"runc": {}, "nvidia": {}}}, True, "passed", "NVIDIA runtime"),
        (GOOD | {"DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]}, True, "passed", "CDI"),
        (GOOD, True, "warning", "nvidia-ctk runtime configure"),
        (GOOD, False, "passed", "no GPU"),
        (DOWN, True, "unknown", "systemctl start docker"),
        (FORBIDDEN, True, "warning", "usermod"),
        ("what?", True, "unknown", "status 0"),
    ],
)
def test_docker(machine, card, docker, facts, with_gpu, status, words):
    docker(facts)
    found = check_docker(machine(*([card()] if with_gpu else [])))
    assert found.status == status
    assert words in found.message + found.hint


def test_no_docker_is_no_fault(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_docker(machine()).status is Status.PASSED
