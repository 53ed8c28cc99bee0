"""`gearshift bench`, as people and their scripts call it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from places import free_port
from scripted_server import ndjson, ollama, sse, vllm

KEYS = {"requests", "failed", "output_tokens_per_s", "ttft_s", "tpot_s", "itl_s", "e2el_s"}
GEARSHIFT = [sys.executable, "-c", "from gearshift.cli import main; main()"]


def bench(*arguments, status=0):
    command = [*GEARSHIFT, "bench", *map(str, arguments), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == status, found.stderr
    assert "Traceback" not in found.stderr
    return json.loads(found.stdout), found.stderr


def test_the_json_has_the_keys_that_scripts_depend_on(known):
    found, said = bench(
        "--url", known.url, "--model", "ttft=40,itl=5", "--concurrency", "1,4",
        "--requests", 8, "--input-tokens", 20, "--output-tokens", 10,
        "--slo", "p95 ttft < 30, tpot < 0.001", "--seed", 7,
    )  # fmt: skip
    assert [run["concurrency"] for run in found["runs"]] == [1, 4]
    assert 0 < found["client_cpu_percent"] < 100
    for run in found["runs"]:
        assert run.keys() >= KEYS | {"provider", "concurrency"}
        assert (run["provider"], run["requests"], run["failed"]) == ("vllm", 8, 0)
        for metric in ("ttft_s", "tpot_s", "itl_s", "e2el_s"):
            assert run[metric].keys() == {"p50", "p95", "p99", "mean"}
        assert 0.04 <= run["ttft_s"]["p50"] < 30  # of a machine that may be busy
        assert run["goals_met"] == {"p95 ttft < 30": True, "p95 tpot < 0.001": False}
        assert run["goodput_per_s"] == 0
    assert found["seed"] == 7
    assert "--concurrency 1,4" in found["command"]
    assert found["machine"]["cores"]
    assert "4 at once: 8 requests, 0 failed" in said


def test_failures_are_counted_and_said_and_the_rest_is_measured(known):
    found, said = bench(
        "--url", known.url, "--model", "ttft=10,cut=4,error=3", "--requests", 24,
        "--concurrency", 2, "--input-tokens", 9, "--output-tokens", 4, "--warmup", 0,
    )  # fmt: skip
    (run,) = found["runs"]
    assert (run["requests"], run["failed"]) == (24, sum(f["count"] for f in run["failures"]))
    assert 8 <= run["failed"] <= 14
    assert "× truncated: " in said
    assert "× server: " in said


@pytest.mark.parametrize("provider", ["vllm", "ollama"])
def test_a_server_that_is_not_there_is_an_error(provider):
    url = f"http://127.0.0.1:{free_port()}"
    found, said = bench("--provider", provider, "--url", url, "--requests", 2, status=1)
    assert found["error"]["kind"] == "unreachable"
    assert found["error"]["hint"]
    assert "next:" in said


def test_a_server_that_answers_nothing_is_no_measurement(known):
    common = ["--url", known.url, "--model", "error=1", "--requests", 4, "--input-tokens", 5]
    found, _ = bench(*common, status=1)
    assert "not one request was answered: " in found["error"]["message"]
    assert "as told" in found["error"]["message"]
    assert bench("--list")[0]["kept"] == []


def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(known):
    before = len(known.sent())
    found, _ = bench("--url", known.url, "--report", "/nowhere/report.html", status=1)
    assert "cannot write /nowhere/report.html" in found["error"]["message"]
    assert len(known.sent()) == before


def test_a_remote_address_is_refused_unless_it_is_allowed():
    found, _ = bench("--url", "http://192.0.2.1:8000", "--requests", 2, status=1)
    assert found["error"]["kind"] == "settings"
    assert "GEARSHIFT_ALLOW_REMOTE" in found["error"]["message"]


def test_a_time_in_which_nobody_comes_is_no_measurement(known):
    found, _ = bench("--url", known.url, "--rate", 0.01, "--duration", 1, status=1)
    assert "not one request was sent" in found["error"]["message"]
    assert "--rate" in found["error"]["hint"]


def test_an_address_that_is_none_blames_the_option_and_not_the_settings():
    found, _ = bench("--url", "nowhere", status=1)
    assert found["error"]["message"].startswith("the address 'nowhere'")
    assert "VLLM_BASE_URL" not in json.dumps(found["error"])
    assert "--url" in found["error"]["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--concurrency", "0"],
        ["--concurrency", "many"],
        ["--provider", "nobody"],
        ["--requests", "0"],
        ["--requests", "5", "--duration", "5"],
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--concurrency", ""],
        ["--rate", "5", "--think-time", "1"],
        ["--prompts", "conversations", "--input-tokens", "5"],
        ["--duration", "inf"],
        ["--scenario", "none"],
        ["--scenario", "ten", "--concurrency", "5"],
        ["--url", "http://127.0.0.1:1", "--provider", "vllm", "--provider", "ollama"],
    ],
)
def test_wrong_usage_is_status_two(arguments):
    bench(*arguments, status=2)


def test_ollama_is_measured_and_cannot_be_told_an_exact_length(serve):
    server = serve(ollama(ndjson("Hello", " there", " you")))
    found, said = bench(
        "--provider", "ollama", "--url", server.url, "--requests", 6,
        "--input-tokens", 12, "--output-tokens", 3,
    )  # fmt: skip
    (run,) = found["runs"]
    assert (run["requests"], run["failed"], run["output_tokens"]) == (6, 0, 18)
    assert not run["exact_output"]
    assert "ollama cannot be told an answer's exact length" in said


def test_a_server_that_refuses_what_it_does_not_know_is_measured_without(serve):
    async def strict(exchange):
        if "ignore_eos" in exchange.json:
            error = {"error": {"message": "unknown field ignore_eos", "code": 400}}
            await exchange.reply(error, 400)
            return
        await exchange.head()
        await exchange.send(sse("Hello", " there"))

    url = serve(vllm(strict)).url
    found, said = bench("--url", url, "--requests", 4, "--output-tokens", 2, "--input-tokens", 5)
    assert (found["runs"][0]["failed"], found["runs"][0]["exact_output"]) == (0, False)
    assert "refuses ignore_eos" in said


def test_an_answer_in_one_piece_that_nobody_counted_is_an_answer(serve):
    async def whole(exchange):
        message = {"role": "assistant", "content": "All of it at once."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await exchange.reply({"object": "chat.completion", "choices": [choice]})

    found, _ = bench("--url", serve(vllm(whole)).url, "--requests", 2, "--input-tokens", 5)
    assert found["runs"][0]["failed"] == 0


def test_what_is_waited_for_after_an_answers_end_is_said(serve):
    async def lingering(exchange):
        await exchange.head()
        await exchange.send(sse("Hello", done=False))
        await exchange.until_closed()

    url = serve(vllm(lingering)).url
    found, _ = bench("--url", url, "--requests", 1, "--input-tokens", 5, "--warmup", 0)
    assert any("left 1 answers open after their end" in note for note in found["runs"][0]["notes"])


def test_a_measurement_that_cannot_be_kept_is_shown(known, home, tmp_path):
    (home / "bench").write_text("a file")
    report = tmp_path / "report.html"
    found, _ = bench(
        "--url", known.url, "--model", "ttft=1", "--requests", 3, "--input-tokens", 5,
        "--report", report, status=1,
    )  # fmt: skip
    assert "cannot be kept" in found["error"]["message"]
    assert (found["name"], found["runs"][0]["failed"]) == (None, 0)
    assert "TTFT p50 / p95 / p99" in report.read_text("utf-8")


def test_what_was_kept_is_listed_with_what_it_is_of(known):
    bench("--url", known.url, "--model", "ttft=1", "--concurrency", "1,2", "--requests", 3)
    listed = subprocess.run([*GEARSHIFT, "bench", "--list"], capture_output=True, text=True)
    assert "-bench  vllm: 1, 2 at once; " in listed.stdout


def test_prompts_come_from_a_file(known, tmp_path):
    file = tmp_path / "asked.jsonl"
    rows = ['"Why?"', '{"prompt": "How?"}', '{"messages": [{"role": "user", "content": "Who?"}]}']
    file.write_text("\n".join(rows), "utf-8")
    common = ["--url", known.url, "--model", "ttft=1,tokens=2", "--requests", 3, "--warmup", 0]
    bench(*common, "--prompts", file)
    asked = {row["body"]["messages"][-1]["content"].split("\n")[-1] for row in known.sent()[-3:]}
    assert asked == {"Why?", "How?", "Who?"}
    file.write_text("[1]", "utf-8")
    found, _ = bench(*common, "--prompts", file, status=1)
    assert "line 1 holds no prompt" in found["error"]["message"]


def test_measurements_are_kept_listed_compared_and_written_as_a_page(known, tmp_path):
    page = tmp_path / "report.html"
    common = ["--url", known.url, "--requests", 4, "--input-tokens", 9, "--output-tokens", 4]
    first, _ = bench(*common, "--model", "ttft=10,itl=4", "--report", page)
    second, _ = bench(*common, "--model", "ttft=60,itl=4")
    assert "<svg" in page.read_text("utf-8")
    kept, _ = bench("--list")
    assert set(kept["kept"]) == {first["name"], second["name"]}
    found, _ = bench("--compare", first["name"], second["name"])
    (row,) = found["changes"]
    assert row["ttft_p50_s"]["change"] > 1
    assert row["ttft_p50_s"]["certain"] is None
    (other,) = found["differences"]
    assert other.startswith("servers: vllm with ttft=10,itl=4 before, ")
    wrong, _ = bench("--compare", first["name"], "nothing", status=1)
    assert first["name"] in wrong["error"]["hint"]


def test_an_open_loop_is_told_by_its_rate(known):
    found, said = bench(
        "--url", known.url, "--model", "ttft=10,itl=1", "--rate", 20, "--burstiness", 0.5,
        "--duration", 2, "--input-tokens", 9, "--output-tokens", 4, "--seed", 5,
    )  # fmt: skip
    (run,) = found["runs"]
    assert (run["concurrency"], run["rate"], run["failed"]) == (None, 20, 0)
    assert 10 <= run["requests"] <= 80
    assert "open loop" in said


@pytest.mark.parametrize("whom", ["it alone", "all of its terminal"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_prints_what_was_measured(known, number, whom):
    child = subprocess.Popen(
        [*GEARSHIFT, "bench", "--url", known.url, "--model", "ttft=20,itl=2", "--json",
         "--requests", "100000", "--output-tokens", "5", "--input-tokens", "5"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    before = len(known.sent())
    while len(known.sent()) < before + 20:
        time.sleep(0.1)
    child.send_signal(number) if whom == "it alone" else os.killpg(child.pid, number)
    out, said = child.communicate(timeout=20)
    assert child.returncode == 0, said
    found = json.loads(out)
    assert found["cancelled"]
    assert found["runs"][0]["cancelled"]
    assert found["runs"][0]["requests"] >= 10
    assert "cancelled: these are the figures until then" in said
