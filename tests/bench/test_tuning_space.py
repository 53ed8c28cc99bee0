"""What is searched on which machine, and what is known not to work before it is started."""

import json
import os
import subprocess
import sys

import pytest

import nvml_stub
from gearshift.bench.tuning.lessons import Lesson, correction
from gearshift.bench.tuning.space import Here, make_space
from gearshift.bench.tuning.study import Study
from gearshift.bench.tuning.trial import Outcome, Point, best_of
from gearshift.engine.models import find_model
from gearshift.errors import EngineError
from gearshift.gpu import GPU
from stand_in import end_stand_in, stand_in, stand_in_starts

GIB = 1 << 30
SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CARDS = tuple(GPU(n, f"GPU-{n}", "NVIDIA L4", 24 * GIB, GIB, 23 * GIB) for n in range(4))


@pytest.fixture
def here(make_settings):
    def make(gpus=(), model="Qwen/Qwen2.5-7B-Instruct", **fields):
        return Here(find_model(model, make_settings()), gpus, **fields)

    return make


def names(space):
    return [one.name for one in space.parameters]


def test_on_gpus_the_guides_three_are_searched_and_all_on_demand(here):
    assert names(make_space(None, here(CARDS[:1]))) == [
        "max_num_seqs", "max_num_batched_tokens", "memory_utilization",
    ]  # fmt: skip
    everything = make_space("all", here(CARDS))
    assert "tensor_parallel" in names(everything)
    by_name = {one.name: one for one in everything.parameters}
    assert by_name["tensor_parallel"].choices == (1, 2, 4)
    assert by_name["max_num_seqs"].default == 256
    assert by_name["max_num_batched_tokens"].default == 2048
    assert by_name["memory_utilization"].default == 0.92
    assert by_name["max_model_len"].choices[-1] == by_name["max_model_len"].default == 32_768
    assert set(by_name["chunked_prefill"].choices) == {True, False}


def test_on_a_processor_only_what_exists_there(here):
    assert names(make_space(None, here())) == ["max_num_seqs", "max_num_batched_tokens"]
    space = make_space("all", here(model=SMOL))
    assert "memory_utilization" not in names(space)
    assert space.defaults["max_num_seqs"] == 128
    with pytest.raises(EngineError, match="KV cache has a size of its own"):
        make_space("gpu-memory-utilization=0.8/0.9", here())


def test_contexts_are_long_enough_for_the_load(here):
    space = make_space("max-model-len", here(longest=5000))
    assert min(space.parameters[0].choices) == 8192


def test_values_and_fixed_ones_are_named_by_a_person(here):
    space = make_space(
        "--max-num-seqs=64/16/16, kv-cache-dtype=fp8, enable-prefix-caching=on/off", here()
    )
    assert space.parameters[0].choices == (16, 64)
    assert space.parameters[1].choices == (False, True)
    assert space.fixed == {"kv_cache_dtype": "fp8"}
    assert len(list(space.settings())) == 4
    assert all(one["kv_cache_dtype"] == "fp8" for one in space.settings())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("speed", "nothing that can be tuned"),
        ("max-num-seqs=0/4", "no value"),
        ("max-num-seqs=a", "no value"),
        ("prefix-caching=maybe/on", "no value"),
        ("max-num-seqs=4", "nothing is left to search"),
        ("max-num-seqs, max-num-seqs=4/8", "twice"),
        ("tensor-parallel-size", "only one value"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(here, words, told):
    with pytest.raises(EngineError, match=told):
        make_space(words, here(CARDS[:1]))


def test_it_begins_with_the_defaults_and_the_guides_profiles(here):
    space = make_space(None, here(CARDS[:1]))
    defaults, latency, throughput = (setting for _, setting in space.beginnings())
    assert defaults == {}
    assert latency == {
        "max_num_seqs": 32, "max_num_batched_tokens": 2048, "memory_utilization": 0.8,
    }  # fmt: skip
    assert throughput["max_num_seqs"] == 256
    # Off the grid the nearest by ratio is taken.
    coarse = make_space("max-num-seqs=4/16/128, prefix-caching", here(CARDS[:1]))
    assert coarse.beginnings()[1][1] == {"max_num_seqs": 16, "prefix_caching": True}
    assert coarse.key({}) == (256, True)


@pytest.fixture
def space(here):
    return make_space(
        "max-num-seqs=16/64/256, max-num-batched-tokens=2048/8192, "
        "gpu-memory-utilization=0.8/0.9, prefix-caching",
        here(CARDS[:1]),
    )


def setting(sequences, batched, share, caching=True):
    return {
        "max_num_seqs": sequences, "max_num_batched_tokens": batched, "memory_utilization": share,
        "prefix_caching": caching,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "forbidden"),
    [
        (setting(256, 2048, 0.9), True),
        (setting(256, 8192, 0.9), True),  # asks for more
        (setting(64, 2048, 0.9), False),  # what the fix asks for
        (setting(256, 2048, 0.8), False),  # asks for less
        (setting(256, 2048, 0.9, caching=False), False),  # nobody knows
    ],
)
def test_a_failed_start_forbids_what_asks_for_as_much(space, other, forbidden):
    lesson = Lesson(setting(256, 2048, 0.9), {"max_num_seqs": 64}, "sampler-warmup-oom")
    assert lesson.forbids(other, space) is forbidden


def test_a_failed_start_is_corrected_within_what_is_searched(space):
    lesson = Lesson(setting(256, 2048, 0.9), {"max_num_seqs": 100}, "sampler-warmup-oom")
    assert correction(lesson, space) == setting(64, 2048, 0.9)
    assert correction(Lesson(setting(256, 2048, 0.9), {"max_num_seqs": 8}, "x"), space) is None
    assert correction(Lesson(setting(256, 2048, 0.9), {}, "unknown"), space) is None
    assert not Lesson(setting(256, 2048, 0.9), {}, "unknown").forbids(
        setting(256, 8192, 0.9), space
    )


# ---- the optimiser


def fill(study, space, best, limit):
    """Tries what it suggests; people are more the nearer a setting is to `best`."""
    count = 0
    pending = [s for _, s in space.beginnings()]
    while count < limit:
        one = pending.pop(0) if pending else study.suggest(lambda setting: False)
        if one is None:
            break
        if study.tried(one) is not None:
            continue
        trial = study.begin("test", one)
        steps = sum(abs(a - b) for a, b in zip(space.indexes(one), best, strict=True))
        users = max(1, 40 - 6 * steps)
        trial.points = [Point(users, True, 0.9, {}, users / 2, 1.0, 24, 0, 1.0)]
        trial.settle()
        trial.outcome = Outcome.MEASURED
        study.close(trial)
        count += 1
    return count


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_best_of_a_large_space_in_few_trials_and_never_tries_one_twice(
    here, tmp_path, seed
):
    space = make_space(None, here(CARDS[:1]))  # 7 × 5 × 6
    study = Study(tmp_path / f"{seed}.jsonl", space, seed)
    fill(study, space, [5, 4, 4], 24)
    assert best_of(study.trials).users >= 34  # one step away at most
    keys = [space.key(trial.setting) for trial in study.trials]
    assert len(keys) == len(set(keys)) == 24


@pytest.fixture
def few(here, tmp_path):
    """Twelve settings, of which some were measured: sequences, tokens in a step, people or None;
    vLLM's defaults, 128 and 2048, lie between two of them."""
    space = make_space("max-num-seqs=4/16/64/128, max-num-batched-tokens=256/1024/4096", here())
    study = Study(tmp_path / "few.jsonl", space, 0)

    def measured(*rows):
        for sequences, tokens, users in rows:
            setting = {"max_num_seqs": sequences, "max_num_batched_tokens": tokens}
            setting = {name: value for name, value in setting.items() if value is not None}
            trial = study.begin("test", setting)
            trial.outcome = Outcome.FAILED if users is None else Outcome.MEASURED
            if users is not None:
                trial.points = [Point(users, True, 0.9, {}, users / 2, 1.0, 24, 0, 1.0)]
                trial.settle()
            study.close(trial)
        found = study.suggest(lambda setting: False)
        return found["max_num_seqs"], found["max_num_batched_tokens"]

    return measured


def test_the_next_one_is_a_neighbour_of_the_best_on_the_side_of_the_second_best(few):
    assert few((None, None, 18), (16, 1024, 20), (128, 4096, 12)) == (64, 1024)


def test_it_goes_away_from_what_did_not_start(few):
    assert few((16, 1024, 20), (128, 1024, None)) != (64, 1024)


def test_a_line_that_a_kill_has_cut_costs_that_line_alone(here, tmp_path):
    space = make_space("max-num-seqs=4/8/16", here())
    path = tmp_path / "torn.jsonl"
    study = Study(path, space, 0)
    fill(study, space, [0], 1)
    study.note("proof", 1)
    path.write_bytes(path.read_bytes() + b'{"trial": {"number": 2, "la')
    again = Study(path, space, 0)
    assert again.trials == study.trials
    assert again.noted("proof") == 1
    fill(again, space, [0], 1)
    assert Study(path, space, 0).trials == again.trials
    assert len(again.trials) == 2


def test_a_small_space_is_tried_out_and_then_it_ends(here, tmp_path):
    space = make_space("max-num-seqs=4/8/16, prefix-caching", here())
    study = Study(tmp_path / "small.jsonl", space, 0)
    assert fill(study, space, [2, 1], 99) == 7  # six, and vLLM's own 128
    again = Study(tmp_path / "small.jsonl", space, 0)
    assert [trial.setting for trial in again.trials] == [t.setting for t in study.trials]
    assert best_of(again.trials) == best_of(study.trials)
    assert again.suggest(lambda setting: False) is None


def test_what_was_interrupted_goes_on_with_the_loads_that_it_had(here, tmp_path):
    space = make_space("max-num-seqs=4/8", here())
    study = Study(tmp_path / "cut.jsonl", space, 0)
    trial = study.begin("test", {"max_num_seqs": 8})
    trial.points.append(Point(4, True, 0.5, {}, 1.0, 1.0, 24, 0, 1.0))
    study.keep(trial)
    again = Study(tmp_path / "cut.jsonl", space, 0)
    assert again.trials == []
    (cut,) = again.interrupted
    assert again.begin(cut.label, cut.setting).points == trial.points


# ---- the fit plan, on GPUs that a stand-in for NVML tells of


def test_what_the_fit_plan_rules_out_is_not_started(tmp_path):
    model = tmp_path / "Qwen2.5-7B-Instruct"
    model.mkdir()
    shape = {
        "architectures": ["Qwen2ForCausalLM"], "num_attention_heads": 28, "num_key_value_heads": 4,
        "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "vocab_size": 152_064, "max_position_embeddings": 32_768, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(shape), "utf-8")
    (model / "model.safetensors").write_bytes(b"weights")
    played = tmp_path / "stand-in"
    library = nvml_stub.build(tmp_path / "nvml")
    variables = nvml_stub.scenario(library, tmp_path / "scenario", nvml_stub.gpu(0, used=0))
    python = stand_in(played, start_seconds=0.1, batching=0.001, slow_tokens=0.02)
    line = [
        sys.executable, "-c", "from gearshift.cli import main; main()", "tune", str(model),
        "--parameters", "gpu-memory-utilization=0.65/0.92", "--trials", "2", "--rounds", "0",
        "--max-users", "2", "--input-tokens", "5", "--output-tokens", "2", "--json",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=120,
            env=os.environ | variables | {"GEARSHIFT_VLLM_PYTHON": str(python)},
        )  # fmt: skip
    finally:
        end_stand_in(played)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    by_share = {t["setting"].get("memory_utilization"): t for t in found["trials"]}
    assert by_share[0.65]["outcome"] == "pruned"
    assert by_share[0.65]["reason"].startswith("the plan: ")
    assert by_share[None]["outcome"] == "measured"
    begun = [one for one in stand_in_starts(played) if one.role == "api"]
    assert not [one for one in begun if "--gpu-memory-utilization=0.65" in one.arguments]
