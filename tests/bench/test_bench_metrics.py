"""Metrics of requests whose stamps are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearshift.bench.metrics import (
    Client,
    Request,
    Run,
    confidence_interval,
    parse_goals,
    percentiles,
)
from gearshift.errors import GearshiftError


def request(start, first, itl, messages, tokens=None, **more):
    pieces = [start + first + number * itl for number in range(messages)]
    end = pieces[-1] if pieces else None
    return Request(0, None, start, pieces, end, output_tokens=tokens, **more)


def run(*requests, seconds=10.0):
    return Run(2, [*requests], 0.0, seconds, [Client(1.0), Client(0.5)])


def test_one_request_has_the_figures_of_vllms_benchmark():
    one = request(100.0, 0.5, 0.1, 11)
    assert one.ttft_s == pytest.approx(0.5)
    assert one.itl_s == pytest.approx([0.1] * 10)
    assert one.e2el_s == pytest.approx(1.5)
    assert one.tpot_s == pytest.approx(0.1)
    assert one.tokens == 11  # each message one, since the server did not count


def test_several_tokens_in_a_message_count_in_tpot_and_throughput_and_not_in_itl():
    one = request(0.0, 0.5, 0.1, 11, tokens=31)
    assert one.itl_s == pytest.approx([0.1] * 10)
    assert one.tpot_s == pytest.approx(1.0 / 30)
    assert run(one).output_tokens_per_s == pytest.approx(3.1)
    assert run(one).counted_by == "usage"
    assert run(one, request(0.0, 0.5, 0.1, 11)).counted_by == "both"


def test_an_answer_of_one_token_has_no_tpot():
    found = run(request(0.0, 0.5, 0.1, 1), request(0.0, 0.5, 0.2, 3))
    assert found.values("tpot") == pytest.approx([0.2])
    assert len(found.values("ttft")) == 2


def test_what_failed_is_counted_and_in_no_figure():
    cut = request(0.0, 9.0, 9.0, 3, error="truncated", reason="it ended")
    refused = Request(0, None, 1.0, error="server", reason="as told")
    found = run(request(0.0, 0.5, 0.1, 11), cut, refused, refused)
    assert found.failed == 3
    assert found.values("ttft") == pytest.approx([0.5])
    assert max(found.values("itl")) == pytest.approx(0.1)
    assert found.output_tokens == 11
    assert found.failures == [("server", 2, "as told"), ("truncated", 1, "it ended")]
    assert found.client_cpu_percent == pytest.approx(15.0)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50))
def test_percentiles_are_numpys(values):
    found = percentiles(values)
    assert [found.p50, found.p95, found.p99] == list(np.percentile(values, [50, 95, 99]))
    assert found.mean == np.mean(values)


def test_nothing_is_unknown_and_not_zero():
    assert percentiles([]).p50 is None
    empty = run(seconds=0.0)
    assert empty.output_tokens_per_s is None
    assert empty.counted_by is None


def test_a_goal_for_the_gaps_is_kept_by_who_has_few_long_ones():
    stutters = request(0.0, 0.5, 0.02, 41)
    stutters.pieces[20:] = [stamp + 0.2 for stamp in stutters.pieces[20:]]
    found = run(stutters, request(0.0, 0.5, 0.02, 41))
    (p95,), (p100,) = parse_goals("p95 itl < 0.05"), parse_goals("p100 itl < 0.05")
    assert (p95.met(found), found.goodput([p95])) == (True, pytest.approx(0.2))
    assert (p100.met(found), found.goodput([p100])) == (False, pytest.approx(0.1))


def test_goodput_counts_requests_that_meet_every_goal():
    found = run(
        request(0.0, 0.5, 0.1, 11),
        request(0.0, 2.0, 0.1, 11),
        request(0.0, 0.5, 0.3, 11),
        request(0.0, 0.5, 0.1, 11, error="truncated"),
    )
    assert found.goodput(parse_goals("ttft < 1, tpot < 150 ms")) == pytest.approx(0.1)
    assert found.goodput(parse_goals("e2el < 10")) == pytest.approx(0.3)
    assert found.goodput(()) is None
    well = run(*(request(0.0, 0.5, 0.1, 5) for _ in range(99)), request(0.0, 5.0, 0.1, 5))
    p95, p100 = parse_goals("p95 ttft < 1 and p100 ttft < 1")
    assert p95.met(well)
    assert not p100.met(well)
    assert not p95.met(found), "a run with failures meets nothing"
    assert str(p95) == "p95 ttft < 1"


@pytest.mark.parametrize(
    "text", ["", "fast", "ttft > 1", "p0 ttft < 1", "p95 speed < 1", "ttft <", "ttft < 0"]
)
def test_a_goal_that_cannot_be_read_is_said(text):
    with pytest.raises(GearshiftError, match="cannot be read"):
        parse_goals(text)


def test_goals_are_those_that_were_written_once_each():
    assert len(parse_goals("p95 ttft < 5, ttft < 5000ms")) == 1
    for text in ("itl < 0.05ms", "e2el ≤ 1000000", "p99ttft<1s"):
        goals = parse_goals(text)
        assert parse_goals(str(*goals)) == goals


@pytest.mark.parametrize("repetitions", [3, 4, 5, 6, 7, 15])
def test_confidence_intervals_cover_the_median_as_often_as_they_say(repetitions):
    dice = np.random.default_rng(1)
    hits = 0
    for seed in range(400):
        low, high = confidence_interval(dice.normal(10, 1, repetitions), seed, draws=1000)
        hits += low <= 10 <= high
    assert 0.88 <= hits / 400 <= 0.98


def test_nobody_knows_how_sure_two_values_are_and_no_time_is_below_zero():
    assert confidence_interval([0.001, 0.002, 0.02])[0] > 0
    assert confidence_interval([1.0, 2.0]) is None
    assert confidence_interval([1.0, 2.0, 3.0], 5) == confidence_interval([1.0, 2.0, 3.0], 5)
