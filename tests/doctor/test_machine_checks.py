"""All checks together: each has its place, none takes the others with it, and all end in time."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

import gearshift.doctor.checks as doctor
from gearshift.doctor.checks import CHECKS, Status, run_machine_checks
from gearshift.doctor.checks._base import passed
from gearshift.errors import IndexFault
from gearshift.settings import load_settings
from nvml_stub import GIB, build, gpu, scenario
from scripted_server import ollama, vllm

RUN = """
import json
from dataclasses import asdict
from gearshift.doctor.checks import run_machine_checks
print(json.dumps([asdict(check) for check in run_machine_checks()]))
"""


def by_name(checks):
    return {check.name: check for check in checks}


def test_a_laptop_without_gpu_and_servers_has_no_faults():
    found = run_machine_checks(load_settings())
    assert len({check.name for check in found}) == len(found) == len(CHECKS)
    assert [check for check in found if check.status is Status.FAILED] == []
    json.dumps([asdict(check) for check in found])


def test_what_did_not_pass_says_what_to_do_with_a_command():
    for check in run_machine_checks():
        assert check.message, check.name
        assert (check.status is Status.PASSED) == (not check.hint), check
        command = r"\b(gearshift|export|nvidia-smi|ollama|sudo|docker|lspci|ps|du|uv) ?"
        assert check.status is Status.PASSED or re.search(command, check.hint), check


def test_every_check_has_a_docstring_and_a_name():
    for check in CHECKS:
        assert check.__name__.startswith("check_")
        assert check.__doc__


def test_a_check_that_raises_is_unknown_and_the_others_go_on(monkeypatch):
    def check_that_breaks(machine):
        raise ZeroDivisionError("by nothing")

    def check_that_knows_why(machine):
        raise IndexFault("it is damaged", hint="mend it")

    def check_that_runs_out_of_time(machine):
        raise TimeoutError("its own")

    def check_that_passes(machine):
        return passed("good")

    checks = (
        check_that_breaks,
        check_that_knows_why,
        check_that_runs_out_of_time,
        check_that_passes,
    )
    monkeypatch.setattr(doctor, "CHECKS", checks)
    broken, why, late, good = run_machine_checks()
    assert (broken.name, broken.status) == ("that_breaks", Status.UNKNOWN)
    assert "ZeroDivisionError: by nothing" in broken.message
    assert (why.status, why.message, why.hint) == (Status.UNKNOWN, "it is damaged", "mend it")
    assert (late.status, "TimeoutError: its own" in late.message) == (Status.UNKNOWN, True)
    assert good.status is Status.PASSED


def test_a_check_that_hangs_is_unknown_when_the_time_is_up(monkeypatch):
    def check_that_hangs(machine):
        time.sleep(5)

    monkeypatch.setattr(doctor, "CHECKS", (check_that_hangs, check_that_hangs))
    monkeypatch.setattr(doctor, "_SECONDS", 0.2)
    began = time.monotonic()
    assert {check.status for check in run_machine_checks()} == {Status.UNKNOWN}
    assert time.monotonic() - began < 2


def test_servers_that_hang_do_not_hold_the_report_up(serve, make_settings):
    async def silent(exchange):
        await exchange.until_closed()

    server = serve(silent)
    settings = make_settings(
        vllm_base_url=server.url, ollama_base_url=server.url, llm_provider="vllm"
    )
    began = time.monotonic()
    found = by_name(run_machine_checks(settings))
    assert time.monotonic() - began < 15.5
    assert found["vllm_port"].status is Status.WARNING
    assert "does not answer" in found["vllm_port"].message
    assert found["ollama_gpu"].status is Status.UNKNOWN


def test_wrong_settings_are_a_result(monkeypatch):
    monkeypatch.setenv("VLLM_GPU_COUNT", "3")
    monkeypatch.setenv("VLLM_TENSOR_PARALLEL_SIZE", "2")
    found = run_machine_checks()
    assert (found[0].name, found[0].status) == ("settings", Status.FAILED)
    assert "must divide" in found[0].message
    assert len(found) == len(CHECKS) + 1


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


def test_a_machine_with_gpus_and_servers(library, tmp_path, serve):
    lines = [gpu(0), gpu(1, used=20), f"process 1 4194305 {19 * GIB}"]
    variables = scenario(library, tmp_path / "scenario", *lines)
    addresses = {"OLLAMA_BASE_URL": serve(ollama()).url, "VLLM_BASE_URL": serve(vllm()).url}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | variables | addresses,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    passing = ("driver", "gpus", "compute_capability", "ollama_port", "ollama", "vllm_port", "vllm")
    assert {name: found[name]["status"] for name in passing} == dict.fromkeys(passing, "passed")
    assert found["gpu_memory"]["status"] == "warning"
    assert "4194305" in found["gpu_memory"]["message"]
    assert found["vllm_token"]["status"] == "passed"
