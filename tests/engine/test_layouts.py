"""The best spread over the GPUs, for one answer and for many."""

import pytest

from gearshift.engine.cards import find_card
from gearshift.engine.fit import Setup
from gearshift.engine.geometry import read_geometry
from gearshift.engine.layouts import for_latency, for_throughput
from gearshift.engine.models import known_shapes


def shape(name):
    return read_geometry(known_shapes()[name.lower()])


def setup(card, **values):
    found = find_card(card)
    return Setup(found.usable_gib, card=found, **values)


def test_a_small_model_is_shared_for_latency_and_copied_for_throughput():
    model, one = shape("Qwen/Qwen2.5-7B-Instruct"), setup("A100-80GB", max_model_len=4096)
    quick, many = for_latency(model, one, 4), for_throughput(model, one, 4)
    assert (quick.tensor_parallel, quick.copies) == (4, 1)
    assert "1/4 of the weights" in quick.reason
    assert (many.tensor_parallel, many.copies) == (1, 4)
    assert many.requests > quick.requests * 0.9


def test_a_large_model_has_no_choice():
    model = shape("Qwen/Qwen2.5-72B-Instruct")
    for best in (for_latency, for_throughput):
        found = best(model, setup("A100-80GB", max_model_len=4096), 2)
        assert (found.tensor_parallel * found.pipeline_parallel, found.copies) == (2, 1)
    assert for_latency(model, setup("L4"), 2) is None


def test_heads_that_cannot_be_shared_leave_stages_and_copies():
    model = shape("HuggingFaceTB/SmolLM2-135M-Instruct")  # 9 heads
    quick, many = for_latency(model, setup("L4"), 2), for_throughput(model, setup("L4"), 2)
    assert quick.tensor_parallel == 1
    assert "cannot be shared by more" in quick.reason
    assert (many.tensor_parallel, many.copies) == (1, 2)


@pytest.mark.parametrize("best", [for_latency, for_throughput])
def test_of_an_unknown_gpu_nothing_is_said(best):
    assert best(shape("Qwen/Qwen2.5-7B-Instruct"), Setup(None), 2) is None
