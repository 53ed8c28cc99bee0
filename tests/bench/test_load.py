"""The load generator against a server that knows what it sent, and when."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from gearshift.bench import (
    Load,
    Series,
    Wish,
    Workload,
    find_service,
    find_target,
    measure,
    parse_goals,
    record,
    run_load,
)
from gearshift.bench import load as load_module
from gearshift.bench import series as series_module
from gearshift.bench.load import arrivals
from gearshift.bench.prompts import synthetic
from gearshift.bench.validity import why_invalid
from gearshift.errors import GearshiftError
from gearshift.providers._http import Budgets
from places import free_port
from scripted_server import ndjson, ollama


def send(target, load, tokens=20, **options):
    wanted = (load.requests or 500) + load.warmup
    workload = Workload.of("synthetic", synthetic(wanted, 1, 10))
    wire = target.wire(tokens, exactly=True)
    return run_load(wire, workload, load, target.service.budgets, **options)


def near(found, real):
    """Within a millisecond, or one percent."""
    return abs(found - real) <= max(0.001, 0.01 * real)


def agrees(run, workload, rows):
    """The figures of a run, beside those of the server's own stamps of the same requests."""
    assert len(run.completed) == len(run.requests) == len(rows)
    by_prompt = {row["body"]["messages"][0]["content"]: row for row in rows}
    pairs = [
        (request, by_prompt[workload.bodies[request.prompt]["messages"][0]["content"]])
        for request in run.requests
    ]
    assert all(request.started <= row["received"] + 0.001 for request, row in pairs)
    first = [row["sent"][0] - row["received"] for _, row in pairs]
    gaps = [b - a for _, row in pairs for a, b in pairwise(row["sent"])]
    whole = [row["ended"] - row["received"] for _, row in pairs]
    each = [(row["ended"] - row["sent"][0]) / (request.tokens - 1) for request, row in pairs]
    for metric, real in (("ttft", first), ("itl", gaps), ("e2el", whole), ("tpot", each)):
        found = run.percentiles(metric)
        assert near(found.p50, np.median(real)), metric
        assert near(found.mean, np.mean(real)), metric
    assert run.began == min(request.started for request in run.requests)
    assert run.ended == max(request.ended for request in run.requests)


@pytest.mark.parametrize(
    ("users", "requests", "script", "tokens"),
    [
        (1, 8, "ttft=80,itl=10", 20),
        (10, 40, "ttft=120,itl=15,per=4", 40),
        (10, 40, "ttft=120,itl=15,join=3", 30),
        (10, 40, "ttft=120,itl=15,early=1,usage=0", 20),
        (10, 40, "ttft=120,itl=15,role=0", 20),
        (200, 400, "ttft=300,itl=60", 20),
    ],
)
def test_every_figure_is_what_the_server_did(known, target, users, requests, script, tokens):
    load = Load(users, requests, warmup=2)
    workload = Workload.of("synthetic", synthetic(requests + 2, 1, 10))
    wire = target(script).wire(tokens, exactly=True)
    run = run_load(wire, workload, load, Budgets(5, 120, 30, 600))
    agrees(run, workload, known.sent()[-requests:])
    assert run.counted_by == ("messages" if "usage=0" in script else "usage")
    assert run.output_tokens == requests * tokens
    assert why_invalid(run, os.cpu_count(), on_this_machine=False) is None
    if users == 200:
        assert len(run.clients) > 1
        assert run.client_cpu_percent < 100


def test_a_thousand_tokens_a_second_cost_less_than_a_third_of_a_core(target):
    run = send(target("ttft=50,itl=20"), Load(20, 60), 50)
    assert run.output_tokens_per_s > 700
    assert run.client_cpu_percent / run.output_tokens_per_s * 1000 < 33


def test_what_fails_is_counted_by_its_reason(target):
    run = send(target("ttft=20,itl=2,cut=5,error=7,broken=11"), Load(4, 80), 10)
    kinds = {kind: count for kind, count, _ in run.failures}
    assert kinds.keys() == {"truncated", "server"}
    assert run.failed == sum(kinds.values())
    assert len(run.requests) == 80
    assert max(run.values("e2el")) < 0.5
    assert len(run.values("ttft")) == 80 - run.failed


def test_a_server_that_stops_answering_fails_by_the_budgets_of_a_chat(target, monkeypatch):
    monkeypatch.setenv("GEARSHIFT_FIRST_TOKEN_TIMEOUT", "0.3")
    run = send(target("ttft=5000"), Load(2, 4), 3)
    assert [(kind, count) for kind, count, _ in run.failures] == [("timeout", 4)]
    monkeypatch.setenv("GEARSHIFT_PROGRESS_TIMEOUT", "0.3")
    run = send(target("ttft=10,itl=5000"), Load(2, 4), 3)
    assert [(kind, count) for kind, count, _ in run.failures] == [("stalled", 4)]


def test_a_server_that_is_gone_is_not_hammered(target):
    wire = target("ttft=1").wire(5, exactly=True)
    wire = replace(wire, endpoint=replace(wire.endpoint, url=f"http://127.0.0.1:{free_port()}"))
    workload = Workload.of("synthetic", synthetic(100, 1, 10))
    run = run_load(wire, workload, Load(2, None, 1.2), Budgets(5, 120, 30, 600))
    assert [kind for kind, _, _ in run.failures] == ["unreachable"]
    assert 2 <= len(run.requests) <= 8


def test_cancelled_it_keeps_what_was_measured(known, target):
    cancel = threading.Event()
    seen = []

    def progress(now):
        seen.append(now)
        if now.done >= 8:
            cancel.set()

    run = send(target("ttft=50,itl=10"), Load(4, 5000), 10, cancel=cancel, progress=progress)
    assert run.cancelled
    assert 8 <= seen[-1].done <= len(run.completed) == len(run.requests) < 500
    assert 1 <= run.unfinished <= 4
    assert run.percentiles("ttft").p50 >= 0.05


def test_cancelled_before_it_began_it_returns_at_once(target):
    cancel = threading.Event()
    cancel.set()
    began = time.monotonic()
    run = send(target("ttft=5000"), Load(4, 100, warmup=50), 10, cancel=cancel)
    assert run.cancelled
    assert not run.requests
    assert time.monotonic() - began < 20


def test_for_a_time_requests_are_begun_and_those_on_their_way_are_finished(target):
    run = send(target("ttft=100,itl=10"), Load(5, duration_s=1.0), 10)
    assert 5 < len(run.completed) == len(run.requests) <= 30
    assert max(request.started for request in run.requests) < run.began + 1.0
    assert run.ended > run.began + 0.8


def at_once(run):
    """The most requests that were under way at once."""
    events = sorted((t, step) for r in run.requests for t, step in ((r.started, 1), (r.ended, -1)))
    return max(np.cumsum([step for _, step in events]))


@pytest.mark.parametrize("sessions", [1, 5, 40])
def test_so_many_people_are_so_many_at_once_however_many_questions_each_has(target, sessions):
    texts = iter(synthetic(3 * sessions, 1, 10))
    chats = [[message for _ in range(3) for message in next(texts)] for _ in range(sessions)]
    workload = Workload.of("chats", chats)
    for requests in (10, 40):
        wire = target("ttft=150,itl=5").wire(3, exactly=True)
        load = Load(10, requests)
        run = run_load(wire, workload, load, Budgets(5, 120, 30, 600))
        assert len(run.completed) == requests
        assert at_once(run) == 10
        assert run.concurrency_mean > 7  # some begin a little later, and nobody follows the last


def test_people_think_between_questions(target):
    quick = send(target("ttft=5"), Load(2, 20), 1)
    slow = send(target("ttft=5"), Load(2, 20, think_s=0.2), 1)
    assert slow.duration_s > quick.duration_s + 0.5


def test_the_open_loop_keeps_to_its_plan_whatever_the_server_does(target):
    load = Load(None, 60, rate=40.0, seed=3)
    run = send(target("ttft=4000"), load, 2)
    assert len(run.completed) == 60
    started = np.array([request.started for request in run.requests])
    planned = np.array(arrivals(load))
    due = np.array([request.due for request in run.requests])
    assert due - due[0] == pytest.approx(planned - planned[0])
    assert (started >= due).all()
    assert np.median(started - due) < 0.25  # it does not wait for the server's four seconds
    assert max(request.started for request in run.requests[:20]) < min(
        request.ended for request in run.requests
    ), "nobody waited for the first answer"


def test_an_open_loop_may_have_a_limit(known, target):
    run = send(target("ttft=100"), Load(2, 10, rate=1000.0), 1)
    assert run.duration_s > 0.45
    assert at_once(run) == 2


def test_a_limit_of_one_holds_at_a_rate_that_would_need_several_processes(target):
    run = send(target("ttft=30"), Load(1, 10, rate=150.0), 1)
    assert at_once(run) == 1


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_burstiness_that_were_asked_for(burstiness):
    load = Load(None, 20_000, rate=50.0, burstiness=burstiness, seed=1)
    moments = np.array(arrivals(load))
    gaps = np.diff(moments, prepend=0.0)
    assert moments[-1] == pytest.approx(400.0)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.03)
    assert arrivals(load) == arrivals(load)
    assert arrivals(load) != arrivals(Load(None, 20_000, rate=50.0, burstiness=burstiness, seed=2))
    timed = arrivals(Load(None, None, 100.0, 50.0, burstiness))
    assert len(timed) == pytest.approx(5000, rel=0.1)
    assert max(timed) < 100


def test_a_client_that_cannot_keep_up_makes_the_run_invalid(target):
    run = send(target("ttft=1"), Load(8, 50), 2)
    run.clients[0].cpu_s = 0.1 * run.duration_s
    assert why_invalid(run, 2, on_this_machine=True) is None
    run.clients[0].cpu_s = 0.7 * run.duration_s
    assert "the client was in the way: it took 70 %" in why_invalid(run, 2, on_this_machine=True)
    assert why_invalid(run, 2, on_this_machine=False) is None
    run.clients[0].cpu_s = run.duration_s
    assert "the client was the bottleneck" in why_invalid(run, 64, on_this_machine=True)
    open_loop = send(target("ttft=1"), Load(None, 20, rate=50.0), 1)
    for request in open_loop.requests:
        request.due -= 1
    assert "could not keep to the plan" in why_invalid(open_loop, 64, on_this_machine=True)


def test_prompts_have_the_length_that_was_asked_for_in_the_servers_own_tokens(known, target):
    wish = Wish((2,), 6, input_tokens=100, output_tokens=5)
    found = record(measure(Series(wish, [target("ttft=1")])))
    assert found["runs"][0]["input_tokens_mean"] == 100.0
    bodies = [row["body"] for row in known.sent()[-6:]]
    assert len({body["messages"][0]["content"] for body in bodies}) == 6
    assert all(body["max_tokens"] == 5 and body["ignore_eos"] for body in bodies)
    assert all(body["stream_options"] == {"include_usage": True} for body in bodies)


def test_the_same_command_again_asks_nothing_that_was_asked_before(known, target):
    wish = Wish((2,), 6, input_tokens=100, output_tokens=2, warmup=0)
    asked = []
    for _ in range(2):
        measure(Series(wish, [target("ttft=1")]))
        rows = known.sent()[-6:]
        asked.append({row["body"]["messages"][0]["content"][:20] for row in rows})
    assert len(asked[0] | asked[1]) == 12


def test_answers_that_are_not_as_long_as_was_asked_are_not_called_exact(target):
    wish = Wish((2,), 6, input_tokens=10, output_tokens=8)
    for script, exact in (("ttft=1", True), ("ttft=1,tokens=5", False)):
        (run,) = record(measure(Series(wish, [target(script)])))["runs"]
        assert run["exact_output"] is exact
        assert any("not the 8 that were asked for" in note for note in run["notes"]) is not exact


def test_too_few_requests_for_so_many_people_are_said(target):
    wish = Wish((8,), 3, input_tokens=10, output_tokens=2)
    (run,) = record(measure(Series(wish, [target("ttft=1")])))["runs"]
    assert (
        "3 requests are fewer than 8 people: so many were never under way at once" in run["notes"]
    )
    assert run["concurrency_mean"] <= 3


@pytest.mark.parametrize(
    "broken", [GearshiftError("a process ended", hint="again"), OSError("a process ended")]
)
def test_what_goes_wrong_later_does_not_cost_what_was_measured(target, monkeypatch, broken):
    right = series_module.run_load
    outcomes = [right, broken, broken]

    def run(*arguments, **options):
        outcome = outcomes.pop(0)
        if outcome is broken:
            raise broken
        return right(*arguments, **options)

    monkeypatch.setattr(series_module, "run_load", run)
    wish = Wish((1, 2, 3), 4, input_tokens=10, output_tokens=2)
    found = record(measure(Series(wish, [target("ttft=1")])))
    assert [run["concurrency"] for run in found["runs"]] == [1]
    assert "a process ended" in found["problem"]["message"]
    with pytest.raises(type(broken), match="a process ended"):
        measure(Series(wish, [target("ttft=1")]))


def ready_worker(target):
    """A process of the load generator that waits for the word to begin."""
    wire = target("ttft=1").wire(1, exactly=True)
    workload = Workload.of("synthetic", synthetic(3, 1, 10))
    (task,) = load_module._tasks(wire, workload, Load(1, duration_s=600), Budgets(5, 120, 30, 600))
    child = subprocess.Popen(
        [sys.executable, "-m", "gearshift.bench._worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.stdin.write(msgspec.json.encode(task) + b"\n")
    child.stdin.flush()
    assert b"ready" in child.stdout.readline()
    return child


def test_who_cancels_at_the_very_beginning_has_cancelled(target):
    child = ready_worker(target)
    out, _ = child.communicate(f"{time.monotonic()!r}\nstop\n".encode(), timeout=20)
    assert b"result" in out
    assert child.returncode == 0


def test_a_run_that_was_cancelled_is_no_repetition(target):
    cancel = threading.Event()

    def step(series):
        if len(series.measured) == 1 and series.progress.done > 2:
            cancel.set()

    goals = parse_goals("p95 e2el < 9")
    wish = Wish((4,), 40, input_tokens=10, output_tokens=4, repeat=3, goals=goals)
    found = record(measure(Series(wish, [target("ttft=20,itl=5")]), step, cancel))
    assert [run["cancelled"] for run in found["runs"]] == [False, True]
    assert [run["goals_met"] for run in found["runs"]] == [
        {"p95 e2el < 9": True},
        {"p95 e2el < 9": None},
    ]
    assert [row["repetitions"] for row in found["summary"]] == [1]


def test_a_load_generator_whose_parent_has_gone_ends(target):
    child = ready_worker(target)
    child.stdin.close()
    assert child.wait(20) == 0
    child.stdout.close()


def test_ollama_off_the_gpu_is_said_where_there_is_one(serve):
    chats = ollama(ndjson("Hello", " there"), models=("llama3.1:8b",))

    async def script(exchange):
        row = {"name": "llama3.1:8b", "size": 10 << 30, "size_vram": 4 << 30}
        if exchange.path.endswith("/api/ps"):
            await exchange.reply({"models": [row]})
        else:
            await chats(exchange)

    server = serve(script)
    wish = Wish((1,), 2, input_tokens=10, output_tokens=2)
    for cards, said in (([], False), ([{"name": "NVIDIA L4"}], True)):
        ollama_target = find_target(find_service("ollama", server.url), "llama3.1:8b")
        series = Series(wish, [ollama_target], machine={"gpus": cards})
        (found,) = measure(series).measured
        assert any("60% of its model in main memory" in note for note in found.notes) is said
