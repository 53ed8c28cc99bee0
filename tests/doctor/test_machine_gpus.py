"""The driver, GPUs, who holds their memory, and what they compute with."""

import os

import pytest

from gearshift.doctor.checks import Status
from gearshift.doctor.checks.capability import check_compute_capability
from gearshift.doctor.checks.gpus import check_driver, check_gpu_memory, check_gpus
from gearshift.engine.launch import make_launch
from gearshift.engine.processes import boot_id, identify
from gearshift.engine.records import Place, Record, State
from gearshift.gpu import GPUs, GPUState, Holder

GIB = 1 << 30


@pytest.fixture
def keep(machine, tmp_path):
    """Writes the record of a server, and returns the machine that has it."""

    def make(*cards, state=State.READY, tree=(), settings=None, **values):
        found = machine(*cards, **(settings or {}))
        launch = make_launch(model="owner/name", served_names=("owner/name",), **values)
        Place(found.settings, launch.port).write(
            Record(
                name="name-8001",
                launch=launch,
                command=[],
                environment={},
                log=tmp_path / "log",
                python=tmp_path / "python",
                state=state,
                boot=boot_id(),
                tree=list(tree),
            )
        )
        return found

    return make


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (GPUState.NO_DRIVER, Status.UNKNOWN),
        (GPUState.DRIVER_NOT_LOADED, Status.WARNING),
        (GPUState.NO_PERMISSION, Status.WARNING),
        (GPUState.DRIVER_MISMATCH, Status.FAILED),
    ],
)
def test_a_driver_that_does_not_answer(machine, state, status):
    found = check_driver(machine(gpus=GPUs(state=state, problem="why", hint="what to do")))
    assert (found.status, found.message) == (status, "why")
    assert "what to do" in found.hint


@pytest.mark.parametrize("check", [check_gpus, check_gpu_memory, check_compute_capability])
def test_without_a_driver_nobody_is_sent_to_ask_it(machine, check):
    found = check(machine())
    assert found.status is Status.UNKNOWN
    assert "nvidia-smi" not in found.hint
    assert "gearshift engine install --cpu" in found.hint


def test_a_driver_that_is_too_old_fails_only_where_vllm_is_wanted(machine, card):
    old = GPUs((card(),), "470.199", "11.4")
    found = check_driver(machine(gpus=old, llm_provider="vllm"))
    assert found.status is Status.FAILED
    assert "525.60" in found.message
    assert check_driver(machine(gpus=old)).status is Status.WARNING
    assert check_driver(machine(card())).status is Status.PASSED
    assert check_driver(machine(gpus=GPUs(driver="570.1"))).status is Status.UNKNOWN
    assert check_driver(machine(gpus=GPUs((card(),)))).status is Status.UNKNOWN


def test_gpus_and_their_size(machine, card):
    assert check_gpus(machine()).status is Status.UNKNOWN
    assert check_gpus(machine(card())).status is Status.PASSED
    small = check_gpus(machine(card(total=8)))
    assert small.status is Status.WARNING
    assert "8 GiB" in small.message
    assert check_gpus(machine(card(total=8), card(1))).status is Status.PASSED
    lost = check_gpus(machine(card(), card(1, problem="it is lost")))
    assert lost.status is Status.FAILED
    assert "GPU 1: it is lost" in lost.message


def test_who_holds_the_memory(machine, card):
    assert check_gpu_memory(machine()).status is Status.UNKNOWN
    assert check_gpu_memory(machine(card(free=0.97))).status is Status.PASSED
    holders = (Holder(4242, "ollama", 12 * GIB), Holder(77, "python", None))
    found = check_gpu_memory(machine(card(), card(1, free=0.5, holders=holders)))
    assert found.status is Status.WARNING
    assert "GPU 1 has 12.0 GiB free (50%)" in found.message
    assert "ollama (pid 4242), python (pid 77)" in found.message
    assert "ollama stop MODEL; if it is not needed: kill 77" in found.hint
    assert "--gpu-memory-utilization 0.48" in found.hint


def test_memory_that_nobody_is_known_to_hold(machine, card):
    note = "WSL does not tell who holds its memory; Windows' Task Manager does"
    found = check_gpu_memory(machine(card(free=0.5, holders=None, notes=(note,))))
    assert found.status is Status.WARNING
    assert "somebody unknown" in found.message
    assert "Task Manager" in found.message
    shared = check_gpu_memory(machine(card(memory_free_bytes=None, notes=("shared",))))
    assert (shared.status, shared.message) == (Status.UNKNOWN, "GPU 0: shared")


def test_memory_that_our_own_server_holds_is_as_it_should_be(keep, card):
    mine = identify(os.getpid())
    ours = Holder(mine.pid, "VLLM::Worker", 20 * GIB)
    found = check_gpu_memory(keep(card(free=0.1, holders=(ours,)), tree=[mine]))
    assert found.status is Status.PASSED
    assert "our own name-8001" in found.message
    both = (ours, Holder(77, "game", GIB))
    found = check_gpu_memory(keep(card(free=0.1, holders=both), tree=[mine]))
    assert found.status is Status.WARNING
    assert "gearshift stop name-8001" in found.hint


@pytest.mark.parametrize(
    ("capability", "status", "words"),
    [
        ((6, 1), "warning", "needs 7.0"),
        ((7, 5), "warning", "--dtype half"),
        ((8, 6), "passed", "bfloat16; FP8"),
        ((8, 9), "passed", "bfloat16 and FP8"),
        ((12, 0), "passed", "and FP4"),
        (None, "unknown", "compute capability"),
    ],
)
def test_compute_capability(machine, card, capability, status, words):
    found = check_compute_capability(machine(card(capability=capability)))
    assert found.status == status
    assert words in found.message + found.hint


def test_a_card_that_vllm_cannot_use_fails_where_vllm_is_wanted(machine, card):
    cards = card(), card(1, capability=(6, 1))
    found = check_compute_capability(machine(*cards, llm_provider="vllm"))
    assert found.status is Status.FAILED
    assert "GPU 1" in found.message


@pytest.mark.parametrize(
    ("capability", "asked", "hint"),
    [
        ((7, 5), {"dtype": "bfloat16"}, "gearshift serve owner/name --dtype half"),
        ((7, 0), {"quantization": "awq"}, "--quantization gptq"),
        ((7, 5), {"quantization": "mxfp4"}, "--quantization gptq"),
        ((8, 0), {"dtype": "bfloat16", "quantization": "awq"}, ""),
    ],
)
def test_a_start_that_failed_for_what_the_card_does_not_have(keep, card, capability, asked, hint):
    found = check_compute_capability(keep(card(capability=capability), state=State.FAILED, **asked))
    assert hint in found.hint
    assert ("name-8001 failed" in found.message) == bool(hint)
