"""What the real pynvml makes of all kinds of drivers: never a crash, never a false zero."""

import ctypes.util
import json
import os
import subprocess
import sys

import psutil
import pytest

from nvml_stub import GIB, build, gpu, scenario

LOOK = """
import dataclasses, json, os, sys
from pathlib import Path
from gearshift.gpu import look
look()
if sys.argv[1:]:
    Path(os.environ["NVML_STUB"]).write_text(sys.argv[1])
found = look()
print(json.dumps(dataclasses.asdict(found) | {"known": found.known}))
"""
LINKS = """
import json
from gearshift.gpu import links
print(json.dumps([[link.first, link.second, link.kind] for link in links()]))
"""
IN_WSL = """
import platform
platform.release = lambda: "6.6.87.2-microsoft-standard-WSL2"
"""
FROM_EIGHT_THREADS = """
import ctypes, json, pynvml
from concurrent.futures import ThreadPoolExecutor
from gearshift.gpu import look
with ThreadPoolExecutor(8) as threads:
    found = [look.result() for look in [threads.submit(look) for _ in range(8)]]
print(json.dumps({
    "gpus": [len(one.gpus) for one in found],
    "inits": ctypes.c_int.in_dll(pynvml.nvmlLib, "stub_inits").value,
}))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def look(library, tmp_path):
    """What a process that has that NVML finds, after `then` if that is what became of it."""

    def run(*lines, then=(), folder=library, code=LOOK, before=()):
        variables = scenario(folder, tmp_path / "scenario", *lines)
        later = ["\n".join(then) + "\n"] if then else []
        found = subprocess.run(
            [*before, sys.executable, "-c", code, *later],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=60,
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
    assert (first["power_watts"], first["power_limit_watts"]) == (70.5, 72.0)
    assert (first["clock_mhz"], first["memory_clock_mhz"]) == (2040, 6251)
    assert (first["state"], first["notes"]) == ("ok", [])
    assert first["compute_capability"] == [8, 9]
    assert first["holders"] == []
    assert first["problem"] is None


@pytest.fixture
def engine(tmp_path):
    """A process with the name that vLLM gives its engine."""
    program = tmp_path / "VLLM::EngineCore"
    program.symlink_to(sys.executable)
    process = subprocess.Popen([program, "-ISc", "import time; time.sleep(120)"])
    yield process.pid
    process.kill()
    process.wait()


def test_who_holds_the_memory_is_named(look, engine):
    gone = 4194305  # above the largest pid that Linux gives
    found = look(gpu(0), f"process 0 {engine} {5 * GIB}", f"process 0 {gone} -")
    ours, other = found["gpus"][0]["holders"]
    assert ours == {"pid": engine, "name": "VLLM::EngineCore", "memory_bytes": 5 * GIB}
    assert other == {"pid": gone, "name": None, "memory_bytes": None}


def test_a_card_names_its_own_holders_only(look):
    mine = os.getpid()
    found = look(gpu(0), gpu(1), f"process 1 {mine} {GIB}")
    assert [one["holders"] for one in found["gpus"]] == [
        [],
        [{"pid": mine, "name": psutil.Process().name(), "memory_bytes": GIB}],
    ]


def test_who_draws_holds_memory_and_is_named_once(look):
    lines = ["process 0 4194305 7", "graphics 0 4194305 -", "graphics 0 4194306 8"]
    holders = look(gpu(0), *lines)["gpus"][0]["holders"]
    assert [(one["pid"], one["memory_bytes"]) for one in holders] == [(4194305, 7), (4194306, 8)]


def test_a_holder_without_a_process_id_makes_the_holders_unknown(look):
    assert look(gpu(0), "process 0 4194305 7", "process 0 0 -")["gpus"][0]["holders"] is None


def test_in_wsl_no_holder_shown_does_not_mean_that_there_is_none(look):
    card = look(gpu(0), code=IN_WSL + LOOK)["gpus"][0]
    assert card["holders"] is None
    assert "Task Manager" in card["notes"][0]
    found = look(gpu(0), "process 0 4194305 -", code=IN_WSL + LOOK)
    assert [one["pid"] for one in found["gpus"][0]["holders"]] == [4194305]


def test_processes_that_nobody_may_see_are_unknown_not_none(look):
    assert look(gpu(0), "fail 0 processes 4")["gpus"][0]["holders"] is None


def test_instances_of_a_shared_card(look):
    instances = [f"mig 0 MIG-1111 {10 * GIB} {9 * GIB}", f"mig 0 MIG-2222 {GIB} {GIB}"]
    found = look(gpu(0), gpu(1), "name 0 NVIDIA A100", *instances)
    one, two = found["gpus"][0]["mig"]
    assert one == {
        "uuid": "MIG-1111",
        "name": "NVIDIA A100 MIG 1g.6gb",
        "memory_total_bytes": 10 * GIB,
        "memory_free_bytes": 9 * GIB,
    }
    assert two["uuid"] == "MIG-2222"
    assert found["gpus"][1]["mig"] == []


def test_what_lies_between_two_cards(look):
    cards = [gpu(number) for number in range(4)]
    between = ["link 0 1 99", "link 0 2 10", "link 0 3 40", "link 1 2 50", "link 2 3 30"]
    assert look(*cards, *between, code=LINKS) == [
        [0, 1, "NVLINK"],
        [0, 2, "PIX"],
        [0, 3, "NODE"],
        [1, 2, "SYS"],
        [2, 3, "PHB"],  # and of 1 and 3 nothing is known
    ]
    assert look(*cards, *between, "fail 0 memory 15", code=LINKS) == [[1, 2, "SYS"], [2, 3, "PHB"]]
    assert look("init 9", code=LINKS) == []


def test_a_lost_card_takes_no_other_with_it(look):
    found = look(gpu(0), gpu(1), gpu(2), "fail 1 memory 15", "fail 2 handle 15")
    assert "lost" in found["gpus"][1]["problem"]
    assert "lost" in found["gpus"][2]["problem"]
    assert [card["state"] for card in found["gpus"]] == ["ok", "lost", "lost"]
    assert found["gpus"][1]["memory_total_bytes"] is None
    assert found["gpus"][0]["memory_total_bytes"] == 24 * GIB


def test_a_card_that_must_be_reset_says_so(look):
    found = look(gpu(0), gpu(1), "fail 1 memory 16")
    assert "nvidia-smi --gpu-reset -i 1" in found["gpus"][1]["problem"]
    assert found["gpus"][0]["problem"] is None


def test_a_card_that_may_not_be_asked_takes_no_other_with_it(look):
    found = look(gpu(0), gpu(1), "fail 0 handle 4")
    assert found["known"]
    refused, other = found["gpus"]
    assert refused["state"] == "no_permission"
    assert "/dev/nvidia*" in refused["problem"]
    assert other["memory_total_bytes"] == 24 * GIB


CHANGING = ("memory", "utilization", "temperature", "power", "clocks", "processes")


@pytest.mark.parametrize(("code", "state"), [(999, "no_answer"), (4, "no_permission")])
def test_a_card_that_answers_nothing_is_not_well(look, code, state):
    found = look(gpu(0), gpu(1), *(f"fail 0 {what} {code}" for what in CHANGING))
    assert [card["state"] for card in found["gpus"]] == [state, "ok"]
    assert found["gpus"][0]["problem"]


@pytest.mark.parametrize(("code", "words"), [(999, "Unknown Error"), (4, "may not ask")])
def test_only_a_card_that_has_no_memory_of_its_own_is_said_to_have_none(look, code, words):
    (note,) = look(gpu(0), f"fail 0 memory {code}")["gpus"][0]["notes"]
    assert words in note
    assert "unified" not in note


def test_memory_that_is_used_by_nobody_is_used_by_somebody_who_is_not_shown(look):
    """So it is in a container that does not see the machine's processes."""
    card = look(gpu(0, used=19))["gpus"][0]
    assert card["holders"] is None
    assert "--pid=host" in card["notes"][0]


def test_a_name_that_is_no_text_is_unknown(look, tmp_path):
    bad = 'printf "name 0 caf\\351\n" >> "$NVML_STUB"; exec "$0" "$@"'
    found = look(gpu(0), before=["sh", "-c", bad])["gpus"][0]
    assert found["name"] is None
    assert found["memory_total_bytes"] == 24 * GIB


def test_a_process_names_itself_and_breaks_nothing(look):
    rename = r"import ctypes, time; ctypes.CDLL(None).prctl(15, b'a\x1b[1m\xe9', 0, 0, 0)"
    code = rename + "; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            (holder,) = look(gpu(0), f"process 0 {process.pid} 7")["gpus"][0]["holders"]
        finally:
            process.kill()
    assert holder["name"] == "a\ufffd[1m\ufffd"


WHAT = {
    "memory": ("memory_total_bytes", "memory_used_bytes", "memory_free_bytes"),
    "utilization": ("utilization_percent",),
    "temperature": ("temperature_c",),
    "power": ("power_watts",),
    "limit": ("power_limit_watts",),
    "clocks": ("clock_mhz", "memory_clock_mhz"),
    "capability": ("compute_capability",),
    "processes": ("holders",),
}


@pytest.mark.parametrize("what", WHAT)
def test_what_a_card_does_not_give_is_unknown_and_nothing_else(look, what):
    """Of a GPU that shares the processor's memory, NVML does not say how much there is."""
    usual = look(gpu(0))["gpus"][0]
    found = look(gpu(0), f"fail 0 {what} 3")["gpus"][0]
    notes = found.pop("notes")
    assert found == {k: v for k, v in usual.items() if k != "notes"} | dict.fromkeys(WHAT[what])
    advice = {"memory": "unified memory", "processes": "--pid=host"}.get(what)
    assert (advice in notes[0] and len(notes) == 1) if advice else notes == []


def test_idle_is_zero_and_not_unknown(look):
    card = look("gpu GPU-0 1000 0 0 0 0 8 9")["gpus"][0]
    zeros = ("memory_used_bytes", "utilization_percent", "temperature_c", "power_watts")
    assert [card[key] for key in zeros] == [0, 0, 0, 0]


def test_a_driver_that_hides_its_version_is_used_all_the_same(look):
    found = look(gpu(0), "fail -1 driver 999")
    assert found["known"]
    assert found["driver"] is None
    assert len(found["gpus"]) == 1


def test_an_old_driver_lacks_functions_and_is_used_all_the_same(look, tmp_path):
    old = build(tmp_path / "old", "-DOLD_DRIVER")
    found = look(gpu(0), f"process 0 4194305 {GIB}", folder=old)
    assert found["cuda"] is None
    assert [one["pid"] for one in found["gpus"][0]["holders"]] == [4194305]
    assert found["gpus"][0]["mig"] == []
    assert found["gpus"][0]["memory_total_bytes"] == 24 * GIB


@pytest.mark.parametrize(
    ("code", "state", "words", "advice"),
    [
        (18, "driver_mismatch", "different versions", "reboot"),
        (9, "driver_not_loaded", "not loaded", "modprobe"),
        (4, "no_permission", "may not", "rights"),
        (17, "blocked", "blocks", "WSL"),
        (999, "no_answer", "Unknown Error", "container"),
    ],
)
def test_a_driver_that_does_not_answer_says_why_and_what_to_do(look, code, state, words, advice):
    found = look(f"init {code}")
    assert found["state"] == state
    assert not found["known"]
    assert found["gpus"] == []
    assert words in found["problem"]
    assert advice in found["hint"]


@pytest.mark.parametrize("trouble", ["init 9", "fail -1 count 9"])
def test_a_driver_that_comes_back_is_found(look, trouble):
    assert not look(gpu(0), trouble)["known"]
    assert len(look(gpu(0), trouble, then=[gpu(0), gpu(1)])["gpus"]) == 2


def test_it_is_initialized_once_and_kept(look):
    """The stand-in reads its file when it is initialized, so a second look finds the same."""
    assert len(look(gpu(0), then=[gpu(0), gpu(1)])["gpus"]) == 1


def test_threads_that_look_at_once_initialize_it_once(look):
    found = look("slow 100", *(gpu(number) for number in range(4)), code=FROM_EIGHT_THREADS)
    assert found == {"gpus": [4] * 8, "inits": 1}


@pytest.mark.skipif(
    ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has an NVIDIA driver"
)
def test_without_a_driver(look, tmp_path):
    says_that_there_is_none(look(folder=tmp_path))


def test_with_a_library_that_cannot_be_loaded(look, tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    says_that_there_is_none(look(folder=tmp_path))


def says_that_there_is_none(found):
    assert not found["known"]
    assert found["gpus"] == []
    assert "no NVIDIA driver" in found["problem"]
    assert "--gpus all" in found["hint"]


def test_a_scenario_with_a_typing_error_fails(look):
    with pytest.raises(AssertionError, match="not understood: proces 0 1 2"):
        look(gpu(0), "proces 0 1 2")
