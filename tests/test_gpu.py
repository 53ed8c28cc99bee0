"""What the real pynvml makes of all kinds of drivers: never a crash, never a false zero."""

import json
import os
import subprocess
import sys

import pytest

from nvml_stub import GIB, build, gpu

LOOK = """
import dataclasses, json
from gearshift.gpu import look
look()
print(json.dumps(dataclasses.asdict(look()) | {"known": look().known}))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def look(library, tmp_path):
    """What `look` finds in a process that has that NVML."""

    def run(*lines, folder=library):
        (tmp_path / "scenario").write_text("\n".join(lines) + "\n", "ascii")
        variables = {"LD_LIBRARY_PATH": str(folder), "NVML_STUB": str(tmp_path / "scenario")}
        found = subprocess.run(
            [sys.executable, "-c", LOOK], env=os.environ | variables, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return run


@pytest.mark.parametrize("count", [1, 4, 8])
def test_each_card_is_described(look, count):
    found = look(*(gpu(number) for number in range(count)))
    assert found["known"]
    assert (found["driver"], found["cuda"]) == ("550.54.15", "12.4")
    assert [one["index"] for one in found["gpus"]] == list(range(count))
    assert len({one["uuid"] for one in found["gpus"]}) == count
    first = found["gpus"][0]
    assert first["name"] == "NVIDIA L4"
    assert first["memory_total_bytes"] == 24 * GIB
    assert first["memory_used_bytes"] == GIB
    assert first["memory_free_bytes"] == 23 * GIB
    assert (first["utilization_percent"], first["temperature_c"]) == (37, 61)
    assert first["power_watts"] == 70.5
    assert first["compute_capability"] == [8, 9]
    assert first["holders"] == []
    assert first["problem"] is None


def test_who_holds_the_memory_is_named(look):
    mine = os.getpid()
    found = look(gpu(0), f"process 0 {mine} {5 * GIB}", "process 0 4000000 -")
    ours, other = found["gpus"][0]["holders"]
    assert (ours["pid"], ours["memory_bytes"]) == (mine, 5 * GIB)
    assert ours["name"]
    assert other == {"pid": 4000000, "name": None, "memory_bytes": None}


def test_processes_that_nobody_may_see_are_unknown_not_none(look):
    assert look(gpu(0), "fail 0 processes 4")["gpus"][0]["holders"] is None


def test_instances_of_a_shared_card(look):
    found = look(gpu(0), f"mig 0 MIG-1111 {10 * GIB} {9 * GIB}", f"mig 0 MIG-2222 {GIB} {GIB}")
    one, two = found["gpus"][0]["mig"]
    assert (one["uuid"], one["memory_total_bytes"], one["memory_free_bytes"]) == (
        "MIG-1111",
        10 * GIB,
        9 * GIB,
    )
    assert two["uuid"] == "MIG-2222"


def test_a_lost_card_takes_no_other_with_it(look):
    found = look(gpu(0), gpu(1), gpu(2), "fail 1 memory 15", "fail 2 handle 15")
    assert "lost" in found["gpus"][1]["problem"]
    assert "lost" in found["gpus"][2]["problem"]
    assert found["gpus"][1]["memory_total_bytes"] is None
    assert found["gpus"][0]["memory_total_bytes"] == 24 * GIB


def test_what_a_card_does_not_give_is_unknown(look):
    found = look(gpu(0), "fail 0 memory 3", "fail 0 power 3", "fail 0 temperature 3")
    card = found["gpus"][0]
    for key in ("memory_total_bytes", "memory_used_bytes", "power_watts", "temperature_c"):
        assert card[key] is None
    assert card["utilization_percent"] == 37


def test_an_old_driver_lacks_functions_and_is_used_all_the_same(look, tmp_path):
    old = build(tmp_path / "old", "-DOLD_DRIVER")
    found = look(gpu(0), f"process 0 4000000 {GIB}", folder=old)
    assert found["cuda"] is None
    assert [one["pid"] for one in found["gpus"][0]["holders"]] == [4000000]
    assert found["gpus"][0]["memory_total_bytes"] == 24 * GIB


@pytest.mark.parametrize(
    ("code", "words"),
    [(18, "different versions"), (9, "not loaded"), (4, "may not"), (999, "answers")],
)
def test_a_driver_that_does_not_answer_says_why_and_what_to_do(look, code, words):
    found = look(f"init {code}")
    assert not found["known"]
    assert found["gpus"] == []
    assert words in found["problem"]
    assert found["hint"]


def test_without_a_driver(look, tmp_path):
    found = look(folder=tmp_path)
    assert "no NVIDIA driver" in found["problem"]
    assert found["hint"]
