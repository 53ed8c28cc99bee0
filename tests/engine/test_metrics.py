"""What becomes of a server's `/metrics`: figures of a span of time, and what they mean in words."""

import json
import math
from dataclasses import asdict, replace
from datetime import datetime

import pytest

from gearshift.engine.launch import make_launch
from gearshift.engine.metrics import Histogram, Metrics, Percentiles, Sample, between, read_sample
from gearshift.engine.words import in_words, number, until
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
    assert between(Sample(-2.0, sample.started), sample).generation_tokens_per_s == 7


def test_an_engine_that_goes_takes_nothing_with_it():
    """Of several behind one server, one is taken away: what the others did is still told."""
    bounds = {"0.1": 100, "1.0": 100, "+Inf": 100}
    usual = {"generation_tokens": 1_000_000, "time_to_first_token_seconds": bounds}
    one = read_sample(text(engines=("0", "1"), **usual), 0.0)
    late = {"0.1": 100, "1.0": 101, "+Inf": 101}
    two = read_sample(text(generation_tokens=1_000_100, time_to_first_token_seconds=late), 2.0)
    found = between(one, two)
    assert found.generation_tokens_per_s == 50
    assert found.ttft_s.p50 == pytest.approx(0.55)
    back = read_sample(text(engines=("0", "1"), generation_tokens=1_000_100), 4.0)
    assert between(one, back).generation_tokens_per_s == 50


def test_who_gave_up_or_failed_has_not_ended_well():
    line = 'vllm:request_success_total{engine="0",finished_reason="%s"} %d\n'
    kind = "# TYPE vllm:request_success counter\n"
    ends = {"stop": 5, "length": 4, "abort": 7, "error": 2}
    rows = "".join(line % pair for pair in ends.items())
    assert between(Sample(0.0), read_sample(kind + rows, 1.0)).finished == 9


def test_an_old_engine_tells_other_things():
    """As vLLM 0.6 wrote it: swapped requests wait, and the cache's hits are a share."""
    lines = (
        "num_requests_running 1.0",
        "num_requests_swapped 2.0",
        "num_requests_waiting 3.0",
        "gpu_cache_usage_perc 0.5",
        "gpu_prefix_cache_hit_rate %s",
    )
    old = "".join(f"vllm:{line}\n" for line in lines)
    sample = read_sample(old % 0.8, 0.0)
    found = between(sample, read_sample(old % 0.8, 2.0))
    assert (found.running, found.waiting, found.kv_cache_usage) == (1, 5, 0.5)
    assert found.prefix_cache_hit_rate == 0.8
    assert read_sample(old % -1, 0.0).prefix_cache_hit_rate is None  # it has no such cache


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_unknown(value):
    names = ("num_requests_running", "kv_cache_usage_perc", "prompt_tokens", "generation_tokens")
    bounds = {"0.1": 1, "+Inf": 2}
    whole = text(**dict.fromkeys(names, value), time_to_first_token_seconds=bounds)
    whole = whole.replace("_sum{", '_sum{broken="",').replace(" 0.2\n", f" {value}\n")
    found = between(Sample(0.0), read_sample(whole, 1.0))
    assert found.running is found.kv_cache_usage is found.prompt_tokens_per_s is None
    assert found.ttft_s.mean is None
    json.dumps(asdict(found), allow_nan=False)


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
    rest = dict.fromkeys(("kv_cache_tokens", "prefix_cache_hit_rate", "finished"))
    none = Percentiles(None, None, None, None)
    rates = {"generation_tokens_per_s": 0.0, "prompt_tokens_per_s": 0.0}
    return Metrics(
        **(usual | rest | rates | {"preemptions": 0, "ttft_s": none, "itl_s": none} | values)
    )


UNCOUNTED = {"generation_tokens_per_s": None, "prompt_tokens_per_s": None}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Idle"),
        (UNCOUNTED, "Idle"),
        ({"running": None}, "does not tell"),
        ({"generation_tokens_per_s": 90.0}, "come and go at 90 tokens"),
        ({"prompt_tokens_per_s": 5000.0, "finished": 40}, "come and go at 5,000 prompt tokens"),
        (UNCOUNTED | {"finished": 2}, "Requests come and go; nobody waits"),
        ({"running": 3, "generation_tokens_per_s": 90.0}, "3 requests under way at 90"),
        ({"running": 1, "generation_tokens_per_s": 0.4}, "1 request under way at 0.4 tokens"),
        ({"running": 3}, "3 requests under way, no token in the last 10 s; nobody waits"),
        ({"running": 3} | UNCOUNTED, "3 requests under way; nobody waits"),
        ({"running": 8, "waiting": 12, "kv_cache_usage": 0.99}, "KV cache is full (99 %)"),
        ({"running": 8, "waiting": 12, "kv_cache_usage": 0.99} | UNCOUNTED, "is full (99 %)"),
        ({"running": 8, "waiting": 1}, "it takes 8 at once"),
        ({"running": 4, "waiting": 1}, "1 request waiting for a turn, 4 under way"),
        ({"running": 4, "preemptions": 2, "generation_tokens_per_s": 9.0}, "put back"),
        ({"running": 4, "kv_cache_usage": 0.96}, "nearly full (96 %)"),
    ],
)
def test_the_figures_are_said_in_words(values, words):
    assert words in in_words(now(**values), LAUNCH)


LAUNCH = make_launch(model="owner/name", served_names=("name",), max_num_seqs=8)


def test_a_server_that_counts_nothing_for_a_minute_reads_or_hangs():
    busy = now(running=3, waiting=1)
    assert "hangs" not in in_words(busy, LAUNCH, 59.0)
    said = in_words(busy, LAUNCH, 75.0)
    assert "3 requests under way, 1 waiting, and no token was counted for 75 s" in said
    assert "reads a long prompt, or hangs" in said


@pytest.mark.parametrize(
    ("before", "after", "silent"),
    [
        ({}, {}, True),
        ({"num_requests_running": 0}, {}, False),  # it came in between, who knows when
        ({}, {"num_requests_running": 0}, False),
        ({}, {"prompt_tokens": 8}, False),
        ({}, {"generation_tokens": 10}, False),
        ({"num_requests_running": 0, "num_requests_waiting": 1}, {}, True),
    ],
)
def test_silence_needs_work_all_the_time_and_counters_that_stand(before, after, silent):
    usual = {"num_requests_running": 2, "num_requests_waiting": 0}
    usual |= {"prompt_tokens": 7, "generation_tokens": 9}
    one, two = read_sample(text(**usual | before), 0.0), read_sample(text(**usual | after), 2.0)
    assert two.silent_since(one) is silent


def test_a_server_without_counters_is_never_silent():
    one = read_sample(text(num_requests_running=2), 0.0)
    assert not replace(one, at=2.0).silent_since(one)


FULL = {"running": 8, "waiting": 2, "kv_cache_usage": 0.99}


@pytest.mark.parametrize("values", [FULL, FULL | {"preemptions": 3}])
def test_more_cache_is_another_thing_on_a_processor(values):
    """vLLM takes an fp8 cache there on processors with AVX-512 only."""
    on_a_gpu = in_words(now(**values), LAUNCH)
    assert "fp8" in on_a_gpu
    assert "see Tune" in on_a_gpu
    on_a_processor = in_words(now(**values), LAUNCH.model_copy(update={"cpu": True}))
    assert "VLLM_CPU_KVCACHE_SPACE" in on_a_processor
    assert "fp8" not in on_a_processor


def test_what_is_small_is_not_nothing():
    found = [number(value) for value in (None, 0.0, 0.4, 9.96, 78.2, 5000.0)]
    assert found == ["?", "0", "0.4", "10", "78", "5,000"]


def test_when_a_model_goes_is_told_with_its_day_unless_that_is_today():
    today = datetime.now().astimezone().replace(hour=23, minute=59, second=58, microsecond=0)
    assert until(today.isoformat()) == "23:59:58"
    other = datetime(2020, 1, 2, 3, 4, 5).astimezone()
    assert until(other.isoformat()) == "2020-01-02 03:04:05"
    assert until("2318-01-01T00:00:00Z") == "told to go"
    assert [until(wrong) for wrong in (None, "soon", "0001-01-01T00:00:00Z")] == ["?"] * 3
