"""A measurement as one page that needs nothing else: charts, figures, and how to repeat it."""

from __future__ import annotations

import json
from html import escape
from statistics import median
from typing import Any

from gearshift.bench.charts import Chart, Line, one_load, svg
from gearshift.bench.machine import in_words

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1320px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 1.5rem }
svg { width: 100%; font-size: 12px } svg text { fill: currentColor } svg .title { font-weight: 600;
  font-size: 14px } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: currentColor; opacity: .15 }
.wide { overflow-x: auto } table { border-collapse: collapse; white-space: nowrap;
  font-size: 13.5px }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left } .bad { color: #dc2626 }
pre { background: #8881; padding: .8rem; overflow-x: auto } .quiet { opacity: .75 }
"""


def label(run: dict[str, Any]) -> str:
    """A server as charts and tables call it."""
    return f"{run['provider']} ({run['variant']})" if run["variant"] else str(run["provider"])


def charts(record: dict[str, Any]) -> list[Chart]:
    """Throughput against people, TTFT and ITL percentiles, and latency against throughput.

    Of repetitions the median of each figure is drawn, as the tables have it; runs that are invalid
    or were cancelled are not.
    """
    curves = _curves(record)
    people = "people at once"
    return [
        Chart(
            "Throughput",
            people,
            "output tokens a second",
            [
                _line(name, runs, lambda r: (r["concurrency"], r["output_tokens_per_s"]))
                for name, runs in curves.items()
            ],
        ),
        _percentiles(curves, "ttft_s", "Time to first token", people),
        _percentiles(curves, "itl_s", "Between tokens (ITL)", people),
        Chart(
            "Latency against throughput",
            "output tokens a second",
            "TTFT p95, ms",
            [
                _line(name, runs, lambda r: (r["output_tokens_per_s"], 1000 * r["ttft_s"]["p95"]))
                for name, runs in curves.items()
            ],
        ),
    ]


def shown(record: dict[str, Any]) -> list[Chart]:
    """The charts that tell something: of a single load there is no latency against throughput."""
    drawn = [chart for chart in charts(record) if chart.lines]
    return drawn[:3] if all(map(one_load, drawn)) else drawn


def _curves(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """For each server its runs by number of people, one each."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in record["runs"]:
        if (
            run["concurrency"] is not None
            and not run["invalid"]
            and not run["cancelled"]
            and run["ttft_s"]["p50"] is not None
        ):
            groups.setdefault((label(run), run["concurrency"]), []).append(run)
    curves: dict[str, list[dict[str, Any]]] = {}
    for (name, _), runs in sorted(groups.items(), key=lambda item: item[0]):
        curves.setdefault(name, []).append(_middle(runs))
    return curves


_DRAWN = ("ttft_s", "itl_s")


def _middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is drawn of several repetitions."""
    middle: dict[str, Any] = {
        metric: {which: _median([run[metric][which] for run in runs]) for which in runs[0][metric]}
        for metric in _DRAWN
    }
    speed = _median([run["output_tokens_per_s"] for run in runs])
    return middle | {"concurrency": runs[0]["concurrency"], "output_tokens_per_s": speed}


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _line(
    name: str, runs: list[dict[str, Any]], point: Any, group: str | None = None, dash: int = 0
) -> Line:
    points = [point(run) for run in runs]
    labels = [
        f"{name}, {run['concurrency']} at once: {y:.4g}"
        for run, (_, y) in zip(runs, points, strict=True)
    ]
    return Line(name, points, labels, group or name, dash)


def _percentiles(
    curves: dict[str, list[dict[str, Any]]], metric: str, title: str, people: str
) -> Chart:
    lines = []
    for name, runs in curves.items():
        for dash, which in ((0, "p50"), (6, "p95"), (2, "p99")):
            known = [run for run in runs if run[metric][which] is not None]

            def point(run: dict[str, Any], which: str = which) -> tuple[float, float]:
                return run["concurrency"], 1000 * run[metric][which]

            lines.append(_line(f"{name} {which}", known, point, name, dash))
    return Chart(title, people, "ms", lines)


def html(record: dict[str, Any]) -> str:
    """The whole page."""
    title = record["title"] or "Benchmark"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Gearshift: {escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(record["started"])} · {escape(in_words(record["machine"]))}</p>',
    ]
    if record["cancelled"]:
        parts.append('<p class="bad">It was cancelled: these are the figures until then.</p>')
    if record["crossover"]:
        parts.append(f"<p><strong>{escape(record['crossover']['sentence'])}</strong></p>")
    drawn = "".join(f"<div>{svg(chart)}</div>" for chart in shown(record))
    parts += [f'<div class="charts">{drawn}</div>', "<h2>Figures</h2>", _table(record["runs"])]
    parts.append(
        '<p class="quiet">Times in milliseconds, of completed requests; TTFT, TPOT, ITL and E2EL '
        "as vllm bench serve defines them, but that they begin when the request leaves this "
        "process, and that a message which only names the role is no token.</p>"
    )
    parts += [_sure(record), _remarks(record), _repeat(record), "</body></html>"]
    return "\n".join(parts)


_COLUMNS = (
    ("ttft_s", ("p50", "p95", "p99")),
    ("tpot_s", ("p50",)),
    ("itl_s", ("p50", "p95", "p99")),
    ("e2el_s", ("p50", "p95")),
)


def _table(runs: list[dict[str, Any]]) -> str:
    goals = any(run["goals_met"] for run in runs)
    heads = [
        "server", "model", "people", "sent", "failed", "tokens/s",
        *(f"{metric[:-2].upper()} {' / '.join(whiches)}" for metric, whiches in _COLUMNS),
        "client CPU", *(("goodput/s", "goals met") if goals else ()),
    ]  # fmt: skip
    rows = []
    for run in runs:
        people = run["concurrency"] if run["rate"] is None else f"{run['rate']:g}/s"
        cells = [
            label(run), run["model"], people, run["requests"], run["failed"],
            _number(run["output_tokens_per_s"]),
            *(" / ".join(_number(run[m][p], 1000) for p in whiches) for m, whiches in _COLUMNS),
            f"{run['client_cpu_percent']:.0f} %",
            *((_number(run["goodput_per_s"]), goals_met(run) or "–") if goals else ()),
        ]  # fmt: skip
        rows.append(_row(cells, ' class="bad"' if run["invalid"] else ""))
    return _drawn(heads, rows)


def _drawn(heads: list[str], rows: list[str]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _row(cells: list[Any], kind: str = "") -> str:
    return f"<tr{kind}>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"


def goals_met(run: dict[str, Any]) -> str:
    """Each goal and whether the run met it; nothing where none was named."""
    words = {True: "yes", False: "no", None: "?"}
    return ", ".join(f"{goal}: {words[met]}" for goal, met in run["goals_met"].items())


def intervals(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heads and rows of a table: medians over repetitions with their 95 % intervals.

    No rows where nothing was to be measured three times; fewer runs that count have no interval.
    """
    heads = ["server", "people", "runs that count", *(name for name, _, _ in _SURE)]
    wanted, rows = record["wish"]["repeat"], []
    for group in record["summary"] if wanted >= _FOR_AN_INTERVAL else ():
        people = group["concurrency"] or f"{group.get('rate') or 0:g}/s"
        unknown = {"median": None, "confidence_interval": None}  # of records made before it was one
        figures = [_around(group.get(key) or unknown, scale) for _, key, scale in _SURE]
        count = f"{group['repetitions']} of {wanted}"
        rows.append([group["target"], str(people), count, *figures])
    return heads, rows


_FOR_AN_INTERVAL = 3


_SURE = (
    ("tokens/s", "output_tokens_per_s", 1),
    ("TTFT p50, ms", "ttft_p50_s", 1000),
    ("TTFT p95, ms", "ttft_p95_s", 1000),
    ("TPOT p50, ms", "tpot_p50_s", 1000),
    ("ITL p95, ms", "itl_p95_s", 1000),
    ("E2EL p50, ms", "e2el_p50_s", 1000),
    ("goodput/s", "goodput_per_s", 1),
)


def _around(figure: dict[str, Any], scale: float) -> str:
    if figure["median"] is None or not figure["confidence_interval"]:
        return _number(figure["median"], scale)
    low, high = (_number(edge, scale) for edge in figure["confidence_interval"])
    return f"{_number(figure['median'], scale)} ({low} to {high})"


def _sure(record: dict[str, Any]) -> str:
    heads, rows = intervals(record)
    if not rows:
        return ""
    table = _drawn(heads, [_row(cells) for cells in rows])
    return f"<h2>Over the repetitions: median and 95 % interval</h2>{table}"


def _number(value: float | None, scale: float = 1) -> str:
    return "–" if value is None else f"{value * scale:,.1f}"


def remarks(record: dict[str, Any]) -> list[str]:
    """What is worth knowing: what was not measured, did not count, failed, or is not alike."""
    said = [f"{name} was not measured: {why}" for name, why in record["skipped"].items()]
    if record.get("problem"):
        said.append(f"it ended too soon: {record['problem']['message']}")
    said += [record["unlike"]] if record["unlike"] else []
    for run in record["runs"]:
        where = f"{label(run)}, {run['concurrency'] or 'open loop'}"
        said += [f"{where}: invalid, {run['invalid']}"] if run["invalid"] else []
        said += [
            f"{where}: {failure['count']} × {failure['kind']}: {failure['example']}"
            for failure in run["failures"]
        ]
    return [*said, *dict.fromkeys(note for run in record["runs"] for note in run["notes"])]


def _remarks(record: dict[str, Any]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in remarks(record))
    return f"<h2>Worth knowing</h2><ul>{items}</ul>" if items else ""


def _repeat(record: dict[str, Any]) -> str:
    versions = sorted({f"{label(run)} {run['version'] or '(no version told)'}: {run['prompts']}"
                       for run in record["runs"]})  # fmt: skip
    machine = record["machine"]
    lines = [
        f"gearshift {machine['gearshift']}, Python {machine['python']}, {machine['system']}",
        f"load average before: {machine['load_average']:.1f}",
        *versions,
        f"seed {record['seed']}",
    ]
    whole = json.dumps(record, indent=1)
    return (
        "<h2>To repeat it</h2>"
        f"<pre>{escape(record['command'])}</pre><p>{'<br>'.join(map(escape, lines))}</p>"
        f"<details><summary>All of it as JSON</summary><pre>{escape(whole)}</pre></details>"
    )
