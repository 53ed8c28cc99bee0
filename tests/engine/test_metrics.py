"""What becomes of a server's `/metrics`: figures of a span of time, and what they mean in words."""

import math

import pytest

from gearshift.engine.metrics import Histogram, Metrics, Percentiles, between, in_words, read_sample
from gearshift.errors import EngineError


def text(started=1000.0, engines=("0",), **values):
    """`/metrics` of a server; names without `vllm:`, a histogram is {bound: cumulative count}."""
    lines = ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started}"]
    for name, value in values.items():
        kind = "histogram" if isinstance(value, dict) else "counter"
        kind = "gauge" if name.startswith(("num_requests", "kv_", "gpu_cache")) else kind
        lines.append(f"# TYPE vllm:{name} {kind}")
        for engine in engines:
            label = f'engine="{engine}",model_name="m"'
            if kind == "histogram":
                for bound, count in value.items():
                    lines.append(f'vllm:{name}_bucket{{le="{bound}",{label}}} {count}')
                lines.append(f"vllm:{name}_sum{{{label}}} {value['+Inf'] * 0.1}")
                lines.append(f"vllm:{name}_count{{{label}}} {value['+Inf']}")
            else:
                suffix = "_total" if kind == "counter" else ""
                lines.append(f"vllm:{name}{suffix}{{{label}}} {value}")
    return "\n".join(lines) + "\n"


def test_rates_are_what_was_added_in_between():
    one = read_sample(text(prompt_tokens=100, generation_tokens=50, num_preemptions=2), 10.0)
    two = read_sample(text(prompt_tokens=500, generation_tokens=250, num_preemptions=3), 14.0)
    found = between(one, two)
    assert found.seconds == 4.0
    assert found.prompt_tokens_per_s == 100.0
    assert found.generation_tokens_per_s == 50.0
    assert found.preemptions == 1


@pytest.mark.parametrize("started", [1000.0, 2000.0])
def test_a_restart_in_between_makes_no_rate_negative(started):
    """Known by the start of the process, or where that is not told by counters that shrink."""
    one = read_sample(text(prompt_tokens=900, generation_tokens=10), 10.0)
    two = read_sample(text(started, prompt_tokens=20, generation_tokens=30), 20.0)
    found = between(one, two)
    assert found.prompt_tokens_per_s == 2.0
    assert found.generation_tokens_per_s == 3.0


def test_engines_are_taken_together():
    sample = read_sample(
        text(
            engines=("0", "1"),
            num_requests_running=3,
            num_requests_waiting=1,
            kv_cache_usage_perc=0.25,
            generation_tokens=7,
        ),
        0.0,
    )
    assert (sample.running, sample.waiting) == (6, 2)
    assert sample.kv_cache_usage == 0.25
    assert sample.counters["generation_tokens"] == 14


def test_older_names_are_understood_and_what_is_missing_is_unknown():
    old = text(gpu_cache_usage_perc=0.5, time_per_output_token_seconds={"0.1": 4, "+Inf": 4})
    found = between(read_sample(text(num_requests_running=0), 0.0), read_sample(old, 1.0))
    assert found.kv_cache_usage == 0.5
    assert found.itl_s.p50 == pytest.approx(0.05)
    assert found.running is None
    assert found.prompt_tokens_per_s is None
    assert found.prefix_cache_hit_rate is None
    assert found.ttft_s == Percentiles(None, None, None, None)


def test_hits_of_the_prefix_cache_are_a_share_of_what_came_in_between():
    one = read_sample(text(prefix_cache_queries=1000, prefix_cache_hits=0), 0.0)
    two = read_sample(text(prefix_cache_queries=1400, prefix_cache_hits=300), 1.0)
    assert between(one, two).prefix_cache_hit_rate == 0.75
    assert between(two, two).prefix_cache_hit_rate is None  # nothing came


def test_percentiles_are_of_the_requests_in_between():
    early = {"0.1": 100, "1.0": 100, "+Inf": 100}
    late = {"0.1": 100, "1.0": 110, "+Inf": 110}
    one = read_sample(text(time_to_first_token_seconds=early), 0.0)
    two = read_sample(text(time_to_first_token_seconds=late), 1.0)
    assert between(one, two).ttft_s.p50 == pytest.approx(0.55)
    assert between(one, two).ttft_s.mean == pytest.approx(0.1)


def test_above_the_last_bound_only_that_bound_is_known():
    found = Histogram({0.5: 1.0, math.inf: 100.0}, 1000.0)
    assert found.percentile(0.99) == 0.5
    assert found.mean == 10.0
    assert Histogram().percentile(0.5) is None


def test_the_size_of_the_cache_is_among_the_labels():
    line = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"%s} 1.0\n'
    assert read_sample(line % "", 0.0).kv_cache_tokens == 1600
    assert read_sample(line % ',kv_cache_size_tokens="1500"', 0.0).kv_cache_tokens == 1500


@pytest.mark.parametrize(
    "wrong",
    ["", "<html>", "# TYPE go_threads gauge\ngo_threads 7\n", "vllm:x{", "vllm:x 1 2 3 {"],
)
def test_what_is_not_vllms_is_said(wrong):
    with pytest.raises(EngineError, match="not those of vLLM"):
        read_sample(wrong, 0.0)


def now(**values):
    usual = {"seconds": 10.0, "running": 0, "waiting": 0, "kv_cache_usage": 0.1}
    rest = dict.fromkeys(
        ("kv_cache_tokens", "prefix_cache_hit_rate", "prompt_tokens_per_s", "finished")
    )
    none = Percentiles(None, None, None, None)
    counts = {"generation_tokens_per_s": 0.0, "preemptions": 0, "ttft_s": none, "itl_s": none}
    return Metrics(**(usual | rest | counts | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Idle"),
        ({"running": None}, "does not tell"),
        ({"generation_tokens_per_s": 90.0}, "come and go at 90 tokens"),
        ({"running": 3, "generation_tokens_per_s": 90.0}, "3 requests under way at 90"),
        ({"running": 3}, "may hang"),
        ({"running": 3, "seconds": 2.0}, "3 requests under way"),
        ({"running": 8, "waiting": 12, "kv_cache_usage": 0.99}, "KV cache is full (99 %)"),
        ({"running": 8, "waiting": 1, "prompt_tokens_per_s": 5.0}, "it takes 8 at once"),
        ({"running": 4, "waiting": 1, "prompt_tokens_per_s": 5.0}, "1 request waiting for a turn"),
        ({"running": 4, "preemptions": 2, "generation_tokens_per_s": 9.0}, "put back"),
        (
            {"running": 4, "kv_cache_usage": 0.96, "generation_tokens_per_s": 9.0},
            "nearly full (96 %)",
        ),
    ],
)
def test_the_figures_are_said_in_words(values, words):
    if values.get("waiting"):
        values = {"generation_tokens_per_s": 50.0} | values
    assert words in in_words(now(**values), max_num_seqs=8)
