"""A forecast for the memory that is free now."""

import pytest

from gearshift.engine.forecast import Question, room_beside
from gearshift.errors import EngineError
from gearshift.gpu import GPU

GIB = 1 << 30
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def gpu(index, free, total=24, name="NVIDIA A10"):
    used = None if free is None else total - free
    return GPU(
        index,
        f"GPU-{index}",
        name,
        memory_total_bytes=None if free is None else total * GIB,
        memory_used_bytes=None if used is None else used * GIB,
        memory_free_bytes=None if free is None else free * GIB,
    )


def test_it_takes_the_gpus_with_most_room_and_no_more_than_is_free(make_settings):
    here = (gpu(0, 4), gpu(1, 18), gpu(2, 12))
    room = room_beside(Question(LLAMA, gpus=1, max_model_len=2048), make_settings(), here)
    assert (room.gpus, room.utilization) == ((1,), 0.72)
    assert room.forecast.setup.utilization == 0.72
    assert room.forecast.launch.memory_utilization == 0.72
    assert room.forecast.fit.fits is False
    two = room_beside(Question(LLAMA, gpus=2, max_model_len=2048), make_settings(), here)
    assert (two.gpus, two.utilization) == ((1, 2), 0.48)
    assert two.forecast.setup.tensor_parallel == 2
    assert two.forecast.fit.fits is True


def test_of_an_empty_gpu_it_takes_what_vllm_takes(make_settings):
    room = room_beside(Question(LLAMA, gpus=1), make_settings(), (gpu(0, 24),))
    assert room.utilization == 0.92


SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(("free", "fits"), [(0, False), (1, False), (8, True)])
def test_on_a_large_gpu_that_is_full_nothing_fits(make_settings, free, fits):
    """A share of it that vLLM could be given would be more than is free."""
    room = room_beside(Question(SMALL), make_settings(), (gpu(0, free, 180, "NVIDIA B200"),))
    assert room.forecast.fit.fits is fits
    if not fits:
        assert room.forecast.fit.reasons == (f"only {free:.1f} GiB of GPU 0 are free",)


def test_a_gpu_that_does_not_tell_is_not_taken(make_settings):
    with pytest.raises(EngineError, match="2 GPUs are wanted, and 1 tell"):
        room_beside(Question(LLAMA, gpus=2), make_settings(), (gpu(0, 24), gpu(1, None)))
