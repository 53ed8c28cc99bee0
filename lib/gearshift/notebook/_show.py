"""How results look: as HTML in a notebook, as text everywhere else."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from IPython.display import DisplayHandle, display

from gearshift.doctor import Report
from gearshift.engine.forecast import Forecast
from gearshift.rag.prompt import label
from gearshift.schemas import Answer, CitedBy

_WIDTH = 100
_LEFT = 'style="text-align:left"'
_MARKS = {"passed": "✓", "warning": "!", "failed": "✗", "refused": "✗", "unknown": "?"}


def both(html: str, text: str) -> None:
    """Displays the HTML where it can be shown, and the text where not."""
    display({"text/html": html, "text/plain": text}, raw=True)  # type: ignore[no-untyped-call]


def show_widget(widget: Any, html: str, text: str) -> Callable[[str, str], None]:
    """The widget where it lives; the HTML, or else the text, where the notebook is only read.

    Returns:
        What takes another HTML and text in their place.
    """

    def bundle(html: str, text: str) -> dict[str, Any]:
        return {**widget._repr_mimebundle_(), "text/html": html, "text/plain": text}

    shown = DisplayHandle()  # type: ignore[no-untyped-call]
    shown.display(bundle(html, text), raw=True)  # type: ignore[no-untyped-call]
    return lambda html, text: shown.update(bundle(html, text), raw=True)  # type: ignore[no-untyped-call]


def text(words: str) -> None:
    """Prints a text in lines of at most 100 characters, its own lines kept."""
    for line in words.splitlines():
        inside = line[: len(line) - len(line.lstrip())]
        print(
            textwrap.fill(
                line,
                _WIDTH,
                subsequent_indent=inside,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )


def table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Shows rows as a table; what is unknown is left empty."""
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in cells for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    plain = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    head, *body = ("".join(f"<td {_LEFT}>{escape(cell)}</td>" for cell in line) for line in lines)
    head = head.replace("td", "th")
    both(f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>", plain)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def checks(found: Iterable[Any], *names: str) -> None:
    """Shows results of checks, all or those of these names, each with what to do about it."""
    chosen = [check for check in found if not names or check.name in names]
    if missing := set(names) - {check.name for check in chosen}:
        raise KeyError(f"there is no check {', '.join(sorted(missing))}")
    for check in chosen:
        text(f"{_MARKS[str(check.status)]} {check.name}: {check.message}")
        if check.hint and check.status != "passed":
            text(f"    next: {check.hint}")


def causes(report: Report) -> None:
    """Shows what the doctor recognised, the most likely cause first."""
    for cause in report.causes:
        text(f"{cause.cause}: {cause.meaning}\n  line {cause.line}: {cause.evidence}")
        text(f"  fix: {cause.fix}")
    if not report.causes and report.first_error:
        line, said = report.first_error
        print("No failure that is known. The first line that looks like an error:")
        text(f"  line {line}: {said}")
    if not report.causes and not report.first_error:
        print("No failure that is known, and no line that looks like an error.")


def answer(found: Answer) -> None:
    """Shows an answer: `[1]` was cited by the model, `≈1` was matched to a source afterwards.

    Raises:
        RuntimeError: it is not whole.
    """
    if not found.complete:
        error = found.error or {"message": f"it is {found.state}", "hint": ""}
        raise RuntimeError(f"no whole answer: {error['message']} ({error['hint']})")
    said = found.text
    for citation in sorted(found.citations, key=lambda c: -c.end):
        if citation.by is CitedBy.MATCH:
            said = f"{said[: citation.end]} [≈{citation.number}]{said[citation.end :]}"
    cited = {citation.number for citation in found.citations}
    sources = [f"[{s.number}] {label(s.passage)}" for s in found.sources if s.number in cited]
    ttft, total = found.timings.ttft_s, found.timings.total_s
    times = f"first token after {ttft:.1f} s, whole after {total:.1f} s" if ttft and total else ""
    instead = [f"{name} did not answer: {why}" for name, why in found.skipped.items()]
    facts = f"{found.provider}, {found.model}: {times}"
    text("\n".join([said.strip(), "", *sources, *instead, facts]))


def memory(planned: Forecast) -> None:
    """Shows a fit plan: a bar of one GPU's memory, and what that means in words."""
    both(memory_html(planned), "\n".join(memory_words(planned)))


def memory_words(planned: Forecast) -> list[str]:
    """What a fit plan says, in lines."""
    found, setup = planned.fit, planned.setup
    verdict = {True: "It fits.", False: "It does not fit.", None: "Whether it fits is unknown."}
    lines = [" ".join([verdict[found.fits], *(f"{reason}." for reason in found.reasons)])]
    ranks = setup.tensor_parallel * setup.pipeline_parallel
    shared = f"{ranks} × {setup.card.name}" if setup.card and setup.card.name else f"{ranks} GPUs"
    spread = f"tensor parallel {setup.tensor_parallel}, pipeline parallel {setup.pipeline_parallel}"
    lines.append(f"{shared}, {spread}; legal tensor parallel: {', '.join(map(str, planned.legal))}")
    parts = f"weights {found.weights_gib:.1f}, working memory {found.overhead_gib:.1f}"
    if found.available_kv_gib is not None:
        parts += f", KV cache {max(0.0, found.available_kv_gib):.1f} ± {found.range_gib:.1f}"
    lines.append(f"GiB on each GPU: {parts}")
    if found.kv_cache_tokens and found.max_concurrency is not None:
        lines.append(
            f"the KV cache holds {found.kv_cache_tokens:,} tokens: {found.max_concurrency:.1f} "
            f"requests of {found.max_model_len:,} tokens at once"
        )
    return lines


_COLORS = {"weights": "#0d9488", "working memory": "#64748b", "KV cache": "#3b82f6"}


def memory_html(planned: Forecast) -> str:
    """The bar and the words of a fit plan."""
    found, usable = planned.fit, planned.setup.usable_gib
    parts = {
        "weights": found.weights_gib,
        "working memory": found.overhead_gib,
        "KV cache": max(0.0, found.available_kv_gib or 0.0),
    }
    whole = max(usable or 0.0, sum(parts.values()))
    bar = "".join(
        f'<div title="{name}: {gib:.1f} GiB" style="width:{100 * gib / whole:.1f}%;overflow:hidden;'
        f'background:{_COLORS[name]};color:#fff;padding:4px 0;text-align:center">{name}</div>'
        for name, gib in parts.items()
    )
    lines = "<br>".join(
        re.sub(r"^(It [^.]*\.)", r"<b>\1</b>", escape(w)) for w in memory_words(planned)
    )
    frame = "display:flex;border:1px solid #888;border-radius:4px;overflow:hidden;margin:6px 0"
    return f'<div style="{frame}">{bar}</div><div>{lines}</div>'
