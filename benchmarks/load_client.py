"""Our load generator beside `vllm bench serve`, on one real vLLM with prompts of the same length.

Starts a vLLM of `.engine` (made by `make test`) on the processor, with a small model of random
weights, and lets the two clients take turns: ours, theirs, theirs, ours …
Printed are the medians of each, and the median of the ratios of the pairs with its confidence
interval; first against a server whose times are known, where the machine matters little. Then what
our client costs at 1,000 tokens a second.

    python benchmarks/load_client.py [PAIRS] [USERS]

Client and server share the machine: whatever the client uses, the server lacks. Two differences are
meant: our TTFT begins when a request's bytes leave, theirs before the client has made the
request and has waited for its other ones; and a message that only announces the role, or the end,
is no interval in our mean ITL.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_models  # noqa: E402
from gearshift.bench import (  # noqa: E402
    Load,
    Workload,
    find_service,
    find_target,
    run_load,
)
from gearshift.bench.metrics import Run, confidence_interval  # noqa: E402
from gearshift.bench.prompts import synthetic  # noqa: E402
from gearshift.engine import environment, servers  # noqa: E402
from gearshift.engine.start import Wish, prepare  # noqa: E402
from gearshift.settings import Settings, environment_for_vllm  # noqa: E402
from known_server import KnownServer  # noqa: E402
from places import free_port  # noqa: E402

TOKENS = 64
# Requests and words of a prompt. The real vLLM gets prompts that it works on for a while: of short
# ones the times are mostly those of the clients, and of two busy cores.
OF_KNOWN, OF_VLLM = (64, 8), (96, 50)
# Larger than the tests' model: there vLLM's API server is slower than the engine behind it, tokens
# come in lumps, and no two runs are alike.
MODEL = (
    tiny_models.CHAT.replace("hidden_size=256", "hidden_size=1024")
    .replace("intermediate_size=512", "intermediate_size=4096")
    .replace("num_hidden_layers=2", "num_hidden_layers=4")
    .replace("head_dim=32", "head_dim=128")
)
METRICS = ("ttft", "tpot", "itl")
Figures = dict[str, float]


class Asked(NamedTuple):
    """A load: people, requests in all, words of each prompt."""

    users: int
    requests: int
    words: int


def prompts(asked: Asked, number: int) -> list[str]:
    sessions = synthetic(asked.requests, number, asked.words)
    return [session[0][0].content for session in sessions]


def ours(url: str, model: str, asked: Asked, number: int) -> tuple[Figures, float]:
    """Figures in seconds, and the client's share of a core in percent."""
    target = find_target(find_service("vllm", url), model)
    sessions = synthetic(asked.requests + 8, number, asked.words)
    workload = Workload.of("synthetic", sessions)
    load = Load(asked.users, asked.requests, warmup=1)
    run = run_load(target.wire(TOKENS, exactly=True), workload, load, target.service.budgets)
    assert not run.failed, run.failures
    return figures(run), run.client_cpu_percent


def figures(run: Run) -> Figures:
    found = {"throughput": run.output_tokens_per_s or 0.0}
    for metric in METRICS:
        spread = run.percentiles(metric)
        found |= {f"{metric} median": spread.p50 or 0.0, f"{metric} mean": spread.mean or 0.0}
    return found


def theirs(
    python: Path, url: str, model: str, load: Asked, number: int, folder: Path
) -> tuple[Figures, float]:
    """The same of `vllm bench serve`; its processor time includes what it takes to begin."""
    asked, answer = folder / "prompts.json", folder / "theirs.json"
    rows = [{"conversations": [{"value": text}, {"value": ""}]} for text in prompts(load, number)]
    asked.write_text(json.dumps(rows), "utf-8")
    command = [
        python, "-W", "ignore", "-m", "vllm.entrypoints.cli.main", "bench", "serve",
        "--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", url,
        "--model", model, "--tokenizer", folder / "model", "--dataset-name", "sharegpt",
        "--dataset-path", asked, "--disable-shuffle", "--ignore-eos",
        "--temperature", 0, "--sharegpt-output-len", TOKENS, "--num-prompts", load.requests,
        "--max-concurrency", load.users,
        "--save-result", "--result-dir", folder, "--result-filename", answer.name,
        "--disable-tqdm",
    ]  # fmt: skip
    child = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment_for_vllm()
        | {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        | {"PYTHONUNBUFFERED": "1"},
    )
    cpu = began = None
    said = []
    assert child.stdout is not None
    for line in child.stdout:
        said.append(line)
        if line.startswith("Starting main"):
            cpu, began = busy(child.pid), time.monotonic()
        if "Serving Benchmark Result" in line and cpu is not None and began is not None:
            cpu = 100 * (busy(child.pid) - cpu) / (time.monotonic() - began)
    assert child.wait() == 0, "".join(said[-20:])
    found = json.loads(answer.read_text("utf-8"))
    assert found["completed"] == load.requests, found
    result = {"throughput": found["output_throughput"]}
    for metric in METRICS:
        for kind in ("median", "mean"):
            result[f"{metric} {kind}"] = found[f"{kind}_{metric}_ms"] / 1000
    return result, cpu or 0.0


def busy(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def compare(
    what: str, url: str, model: str, python: Path, folder: Path, pairs: int, load: Asked
) -> None:
    rows: list[tuple[Figures, Figures]] = []
    shares: list[tuple[float, float]] = []
    for number in range(pairs):
        measured: dict[str, tuple[Figures, float]] = {}
        for client in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
            if client == "ours":
                measured[client] = ours(url, model, load, 2 * number)
            else:
                measured[client] = theirs(python, url, model, load, 2 * number + 1, folder)
        rows.append((measured["ours"][0], measured["theirs"][0]))
        shares.append((measured["ours"][1], measured["theirs"][1]))
        print(f"pair {number + 1}: load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(f"\n{what}: {pairs} pairs, {load.users} at once, {load.requests} requests, ", end="")
    print(f"{load.words} words to read and {TOKENS} tokens to write\n")
    print("| | ours | vllm bench serve | median ratio | 95 % interval |\n|---|---|---|---|---|")
    for name in rows[0][0]:
        ratios = [mine[name] / other[name] for mine, other in rows]
        low, high = confidence_interval(ratios) or (float("nan"), float("nan"))
        unit, scale = ("tokens/s", 1) if name == "throughput" else ("ms", 1000)
        mine, other = (statistics.median(row[i][name] for row in rows) * scale for i in (0, 1))
        print(
            f"| {name} | {mine:.2f} {unit} | {other:.2f} {unit} | "
            f"{statistics.median(ratios):.3f} | {low:.3f}-{high:.3f} |"
        )
    mine, other = (statistics.median(pair[i] for pair in shares) for i in (0, 1))
    print(f"| client, of a core | {mine:.0f} % | {other:.0f} % | {mine / other:.2f} | |")


def cost() -> None:
    """Of our client alone, at a steady thousand tokens a second of twenty people."""
    server = KnownServer()
    try:
        target = find_target(find_service("vllm", server.url), "ttft=20,itl=20")
        workload = Workload.of("synthetic", synthetic(60, 1, 8))
        wire = target.wire(250, exactly=True)
        found = [run_load(wire, workload, Load(20, 60), target.service.budgets) for _ in range(3)]
    finally:
        server.stop()
    shares = [run.client_cpu_percent / (run.output_tokens_per_s or 1) * 1000 for run in found]
    print(f"\nour client at 1,000 tokens a second: {statistics.median(shares):.1f} % of a core")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its servers, too
    pairs, users = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 7), (2, 8)))
    engine = Settings(home=ROOT / ".engine", _env_file=None)
    python = environment.python(engine)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        model = tiny_models.make(MODEL, python, folder / "model")
        os.environ["GEARSHIFT_HOME"] = home  # the server's supervisor looks for it there
        script = f"ttft=200,itl=30,tokens={TOKENS}"
        known = KnownServer(script)
        try:
            load = Asked(users, *OF_KNOWN)
            compare("first 200 ms, then 30", known.url, script, python, folder, pairs, load)
        finally:
            known.stop()
        settings = Settings(home=folder, vllm_python=python, _env_file=None)
        port = free_port()
        choices = {"max_model_len": 2048}
        start = prepare(Wish(str(model), port=port, choices=choices), settings)
        servers.serve(start.record, settings)
        try:
            record = servers.wait(port, settings)
            assert record.failure is None, record.failure
            load = Asked(users, *OF_VLLM)
            compare("real vLLM", record.url, record.model, python, folder, pairs, load)
        finally:
            servers.stop(servers.find_on(port, settings), settings, 0.0)
    cost()


if __name__ == "__main__":
    main()
