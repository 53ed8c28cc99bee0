"""The figures of the load generator beside what a server of known times has itself stamped.

    python benchmarks/load_accuracy.py

Each number of streams is one run: the server waits 300 ms and then sends a token every 50 ms. Both
sides use the machine's one clock: the server's stamps begin when the kernel has a request for it,
ours when its bytes leave.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from gearshift.bench import Load, Workload, find_service, find_target, run_load  # noqa: E402
from gearshift.bench.metrics import METRICS, Percentiles, percentiles  # noqa: E402
from gearshift.bench.prompts import synthetic  # noqa: E402
from known_server import KnownServer  # noqa: E402

SCRIPT, TOKENS = "ttft=300,itl=50", 40
STREAMS, TIMES = (1, 10, 50, 200), 3  # requests of each stream
FIGURES = ("p50", "p95", "p99", "mean")


def stamped(rows: list[dict[str, Any]]) -> dict[str, Percentiles]:
    """The same metrics from the server's own stamps."""
    sent = [row["sent"] for row in rows]
    return {
        "ttft": percentiles([row["sent"][0] - row["received"] for row in rows]),
        "tpot": percentiles([(one[-1] - one[0]) / (len(one) - 1) for one in sent]),
        "itl": percentiles([later - sooner for one in sent for sooner, later in pairwise(one)]),
        "e2el": percentiles([row["sent"][-1] - row["received"] for row in rows]),
    }


def measured(streams: int) -> Iterator[tuple[str, float, float]]:
    """The name of each figure, ours, and the server's."""
    server = KnownServer(SCRIPT)
    try:
        requests = TIMES * streams
        workload = Workload.of("synthetic", synthetic(requests + 2, streams, 20))
        target = find_target(find_service("vllm", server.url), SCRIPT)
        load = Load(streams, requests, warmup=2)
        run = run_load(target.wire(TOKENS, exactly=True), workload, load, target.service.budgets)
        rows = server.sent()[-requests:]
    finally:
        server.stop()
    real = stamped(rows)
    for metric in METRICS:
        found = run.percentiles(metric)
        for which in FIGURES:
            yield f"{metric} {which}", getattr(found, which), getattr(real[metric], which)
    lasted = max(row["ended"] for row in rows) - min(row["received"] for row in rows)
    yield "tokens/s", run.output_tokens_per_s or 0.0, requests * TOKENS / lasted


def main() -> None:
    print(f"{os.cpu_count()} cores, load average before: {os.getloadavg()[0]:.1f}; milliseconds\n")
    table: dict[str, list[str]] = {}
    for streams in STREAMS:
        for name, ours, real in measured(streams):
            scale = 1 if name == "tokens/s" else 1000
            right = abs(ours - real) <= max(0.01 * real, 0.001 if scale == 1000 else 0.0)
            cell = f"{ours * scale:.2f} / {real * scale:.2f}" + ("" if right else " **off**")
            table.setdefault(name, []).append(cell)
    print("| ours / the server's | " + " | ".join(f"{n} streams" for n in STREAMS) + " |")
    print("|---" * (len(STREAMS) + 1) + "|")
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
