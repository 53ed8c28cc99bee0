"""What is kept, compared, drawn and said of measurements."""

import json
import re
from xml.etree import ElementTree

import pytest

from gearshift.bench import Series, Wish, measure, runs
from gearshift.bench.charts import Chart, Line, svg, ticks
from gearshift.bench.crossover import crossover
from gearshift.bench.report import charts, html, intervals
from gearshift.bench.scenarios import SCENARIOS, finished, scenario_series
from gearshift.errors import GearshiftError
from scripted_server import ndjson, ollama


@pytest.fixture
def found(target):
    wish = Wish((1, 2), 4, input_tokens=10, output_tokens=5, repeat=3, warmup=1)
    return finished(measure(Series(wish, [target("ttft=10,itl=2,error=9")], command="gearshift")))


def test_the_report_is_one_page_with_all_that_is_needed_to_repeat_it(found):
    found["runs"][0]["model"] = "<script>alert(1)</script>"
    found["command"] = "gearshift bench --seed 7"
    page = html(json.loads(json.dumps(found)))
    assert "<script" not in page
    assert not re.search(r'(src|href)="?https?:|url\(', page)
    assert page.count("<svg") == 4
    for element in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(element)
    assert "Over the repetitions: median and 95 % interval" in page
    for text in (
        "gearshift bench --seed 7",
        "TTFT p50 / p95 / p99",
        "output tokens a second",
        "server: ",
    ):
        assert text in page
    assert "as told" in page


def test_repetitions_give_intervals_and_their_medians_are_drawn(found):
    assert len(found["runs"]) == 6
    assert [(row["concurrency"], row["repetitions"]) for row in found["summary"]] == [
        (1, 3),
        (2, 3),
    ]
    for row in found["summary"]:
        low, high = row["ttft_p50_s"]["confidence_interval"]
        assert low <= row["ttft_p50_s"]["median"] <= high
    throughput, first_token, *_ = charts(found)
    for chart, figure, scale in (
        (throughput, "output_tokens_per_s", 1),
        (first_token, "ttft_p50_s", 1000),
    ):
        medians = [row[figure]["median"] * scale for row in found["summary"]]
        assert chart.lines[0].points == list(zip([1, 2], medians, strict=True))


def test_runs_that_do_not_count_are_missed_and_said(found):
    whole, _ = intervals(found)
    found["summary"][0] |= {"repetitions": 2}
    found["summary"][0]["ttft_p50_s"]["confidence_interval"] = None
    heads, rows = intervals(found)
    assert heads == whole
    assert [row[:3] for row in rows] == [["vllm", "1", "2 of 3"], ["vllm", "2", "3 of 3"]]
    assert "to" not in rows[0][heads.index("TTFT p50, ms")]
    assert "to" in rows[1][heads.index("TTFT p50, ms")]


def test_measurements_are_kept_and_compared(found, home):
    first = runs.keep(found, home)
    faster = json.loads(json.dumps(found))
    for row in faster["summary"]:
        row["ttft_p50_s"] = {"median": row["ttft_p50_s"]["median"] / 2, "confidence_interval": None}
        row["output_tokens_per_s"] = {"median": 1e6, "confidence_interval": [9e5, 2e6]}
    second = runs.keep(faster, home)
    assert {first, second} == set(runs.kept(home))
    rows = runs.compare(runs.load(first, home), runs.load(second, home))
    assert [row["concurrency"] for row in rows] == [1, 2]
    assert rows[0]["ttft_p50_s"]["change"] == pytest.approx(-0.5)
    assert rows[0]["ttft_p50_s"]["certain"] is None
    assert rows[0]["output_tokens_per_s"]["certain"] is True
    assert rows[0]["itl_p95_s"]["certain"] is False
    for name in ("nothing", "../../etc/passwd"):
        with pytest.raises(GearshiftError, match="there is no measurement"):
            runs.load(name, home)


def measured(models=None, intervals=None, cancelled=False, **speeds):
    """A record: `None` for a run that is invalid, 0 for one whose requests all failed."""
    runs = [
        {
            "provider": target,
            "variant": None,
            "model": (models or {}).get(target, "mistral:7b"),
            "concurrency": users,
            "cancelled": False,
            "invalid": "the client was in the way" if speed is None else None,
            "output_tokens_per_s": speed or None,
        }
        for target, by_users in speeds.items()
        for users, speed in by_users.items()
    ]
    summary = [
        {
            "target": target,
            "concurrency": users,
            "output_tokens_per_s": {"median": speed, "confidence_interval": interval},
        }
        for target, by_users in speeds.items()
        for users, speed in by_users.items()
        if speed
        for interval in [intervals and (speed - intervals, speed + intervals)]
    ]
    return {"runs": runs, "summary": summary, "cancelled": cancelled}


@pytest.mark.parametrize(
    ("speeds", "users", "sentence"),
    [
        ({"vllm": {1: 20, 5: 80, 10: 150}, "ollama": {1: 50, 5: 60, 10: 60}}, 5, "pays from 5 "),
        ({"vllm": {1: 20, 5: 40}, "ollama": {1: 50, 5: 60}}, None, "does not pay, up to 5"),
        ({"vllm": {1: 90, 5: 40}, "ollama": {1: 50, 5: 60}}, None, "does not pay"),
        ({"vllm": {1: 90, 5: 99}, "ollama": {1: 50, 5: 60}}, 1, "at every number of people"),
        ({"embedded": {1: 90, 5: 99}, "ollama": {1: 50, 5: 60}}, None, "vLLM was not measured"),
        ({"vllm": {1: 90, 5: 99}}, None, "Another server was not measured"),
        # What broke there does not pay there; where another one broke, vLLM does.
        ({"vllm": {1: 20, 5: 80, 10: 0}, "ollama": {1: 50, 5: 60, 10: 60}}, None, "does not pay"),
        ({"vllm": {1: 20, 5: 80}, "ollama": {1: 50, 5: 0}}, 5, "beside 0 of ollama"),
        ({"vllm": {1: 20, 5: 80, 10: None}, "ollama": {1: 50, 5: 60, 10: 60}}, 5,
         "With 10 people not all of them could be measured"),
        ({"vllm": {1: None, 5: None}, "ollama": {1: 50, 5: 60}}, None, "pay is open"),
    ],
)  # fmt: skip
def test_where_vllm_pays_is_said_as_it_is(speeds, users, sentence):
    answer = crossover(measured(**speeds))
    assert answer["users"] == users
    assert sentence in answer["sentence"]


def test_another_model_is_no_rival_and_where_there_is_no_other_it_is_said():
    speeds = {"vllm": {1: 20, 5: 80}, "ollama": {1: 50, 5: 60}, "embedded": {1: 99, 5: 99}}
    answer = crossover(measured({"embedded": "smollm2:135m"}, **speeds))
    assert answer["users"] == 5
    assert "Left out, with another model: embedded" in answer["sentence"]
    del speeds["ollama"]
    answer = crossover(measured({"embedded": "smollm2:135m"}, **speeds))
    assert answer["users"] is None
    assert "do not have the same model (vllm has mistral:7b, embedded has" in answer["sentence"]


@pytest.mark.parametrize(
    ("interval", "said"), [(None, "measured once or twice"), (30, "overlap"), (1, "ollama.")]
)
def test_what_may_be_chance_is_called_so(interval, said):
    speeds = {"vllm": {1: 20, 5: 80}, "ollama": {1: 50, 5: 60}}
    sentence = crossover(measured(intervals=interval, **speeds))["sentence"]
    assert said in sentence
    assert ("chance" in sentence) == (interval != 1)
    assert "cancelled" in crossover(measured(cancelled=True, **speeds))["sentence"]


def test_one_number_of_people_says_nothing_of_a_crossover():
    assert crossover(measured(vllm={10: 90}, ollama={10: 20})) is None


@pytest.mark.parametrize("top", [0, 0.003, 0.7, 1, 4, 26, 99, 100, 1234, 99999])
def test_ticks_are_round_and_cover_what_is_drawn(top):
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] >= top * 0.999
    assert 2 <= len(found) <= 8


def test_of_a_single_load_bars_tell_the_values(target):
    wish = Wish((2,), 4, input_tokens=10, output_tokens=5)
    found = finished(measure(Series(wish, [target("ttft=10,itl=2")])))
    found["runs"][0]["invalid"] = None  # as it may be on a busy machine
    page = html(found)
    drawn = [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    bars = [len([part for part in one if part.tag == "rect"]) for one in drawn]
    assert bars == [1, 3, 3]  # throughput; p50, p95, p99 of both times
    assert all(part.tag not in ("polyline", "circle") for one in drawn for part in one)


def test_a_chart_of_one_point_and_of_none_can_be_drawn():
    line = Line("a & b", [(1, 0.0)], ["<1>"], "a")
    for lines in ([line], [Line("nothing", [], [], "b")], []):
        ElementTree.fromstring(svg(Chart("T", "x", "y", lines)))


FAKE_OLLAMA = """#!{python}
import os, sys
sys.path.insert(0, {tests!r})
from urllib.parse import urlsplit
from scripted_server import ScriptedServer, ndjson, ollama
assert sys.argv[1:] == ["serve"]
assert os.environ["OLLAMA_NUM_PARALLEL"] == "10"
server = ScriptedServer(ollama(ndjson("One", " two")), urlsplit(os.environ["OLLAMA_HOST"]).port)
server._thread.join()
"""


def test_a_scenario_measures_what_is_there_ollama_twice_and_says_what_is_not(
    serve, monkeypatch, tmp_path, embedding_home
):
    import sys

    from places import ROOT

    server = serve(ollama(ndjson("Hello", " there", " you")))
    monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    text = FAKE_OLLAMA.format(python=sys.executable, tests=str(ROOT / "tests"))
    program.write_text(text, "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    wish = Wish(requests=6, warmup=1)
    with scenario_series("ten", wish, providers=["ollama", "vllm"]) as series:
        found = finished(measure(series))
    assert [run["variant"] for run in found["runs"]] == [None, "OLLAMA_NUM_PARALLEL=10"]
    assert [run["output_tokens"] for run in found["runs"]] == [18, 18]
    assert [run["concurrency"] for run in found["runs"]] == [10, 10]
    assert found["skipped"].keys() == {"vllm"}
    assert found["title"] == SCENARIOS["ten"].title
    assert "ollama (OLLAMA_NUM_PARALLEL=10)" in html(found)
    prompts = [r.json["messages"] for r in server.requests if r.path.endswith("/api/chat")]
    assert all(messages[0]["role"] == "system" for messages in prompts)
    assert "Sources:" in prompts[0][1]["content"]


def test_without_ollamas_program_its_tuned_form_is_said_to_be_missing(serve, monkeypatch):
    monkeypatch.setenv("OLLAMA_BASE_URL", serve(ollama()).url)
    monkeypatch.setenv("PATH", "/nowhere")
    with scenario_series("one", Wish(), providers=["ollama", "vllm"]) as series:
        assert series.skipped.keys() == {"ollama tuned", "vllm"}
        assert len(series.targets) == 1


def test_a_scenario_without_any_server_is_an_error():
    with (
        pytest.raises(GearshiftError, match="there is nothing to measure: ollama: "),
        scenario_series("many", Wish()),
    ):
        pass
