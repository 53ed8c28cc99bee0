"""`gearshift migrate parity · cutover · rollback`: the proof, the switch, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gearshift.cli._migration import chosen, items_of, progress
from gearshift.cli._report import JSON, fail, out, print_json, reporting
from gearshift.errors import EngineError
from gearshift.settings import load_settings

if TYPE_CHECKING:
    from gearshift.migrate.cutover import Counts
    from gearshift.migrate.pairs import Pair

app = typer.Typer()


@app.command()
def parity(
    model: Annotated[str, typer.Argument(help="A model of Ollama's.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Your questions: one a line, or JSON a line.")
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="So many of them.")] = 20,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Where passages are looked for.")
    ] = None,
    no_retrieval: Annotated[
        bool, typer.Option("--no-retrieval", help="Ask without documents.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 128,
    people: Annotated[
        int, typer.Option(min=0, help="Measure speed with one and with so many; 0: do not.")
    ] = 4,
    vllm_model: Annotated[
        str | None, typer.Option(help="What vLLM calls it, if not as Ollama does.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Ask both servers the same, and compare prompts and answers."""
    from gearshift.migrate.parity import Exam, check_parity
    from gearshift.migrate.verdict import report_file

    with reporting(as_json):
        settings = load_settings()
        (item,) = chosen(items_of(None, settings), model)[:1]
        exam = Exam(
            prompts, questions, collection, not no_retrieval, max_tokens, vllm_model, people
        )
        with progress(as_json) as show:
            done = 0

            def on_pair(pair: Pair) -> None:
                nonlocal done
                done += 1
                show(f"{done} of {questions} compared, the last one: {pair.alike}", None)

            report = check_parity(item, exam, settings, lambda stage: show(stage, None), on_pair)
        path = report_file(item.name, settings)
        if as_json:
            print_json({"report": report, "path": str(path)})
            return
        for row in report["pairs"]:
            _show_pair(row)
        out.print(f"verdict: {report['verdict']}", style="bold", markup=False)
        for reason in report["reasons"]:
            out.print(f"  {reason}", markup=False)
        out.print(f"  all of it: {path}", markup=False, soft_wrap=True)


def _show_pair(row: dict[str, Any]) -> None:
    marks = {"same": "=", "near": "≈", "different": "≠", "unknown": "?"}
    out.print(f"{marks[row['alike']]} {row['question']}", style="bold", markup=False)
    if row["difference"]:
        out.print(f"  the prompts differ: {row['difference']}", style="red", markup=False)
    if row["alike"] != "same":
        for name, answer in row["answers"].items():
            out.print(f"  {name}: {answer['error'] or answer['text'].strip()}", markup=False)


@app.command()
def cutover(
    model: Annotated[str, typer.Argument(help="The name that clients use.")],
    watch: Annotated[float, typer.Option(min=0, help="Seconds to watch it.")] = 120.0,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between checks.")] = 5.0,
    max_error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="More errors than before, and it goes back.")
    ] = 0.05,
    as_json: JSON = False,
) -> None:
    """Make vLLM the default with Ollama behind it, watch it, go back if requests fail."""
    from dataclasses import asdict

    from gearshift.migrate.cutover import cut_over

    with reporting(as_json):
        settings = load_settings()
        with progress(as_json) as show:

            def on_counts(seconds: float, counts: Counts) -> None:
                show(f"watching: {_counted(counts)}", seconds / watch)

            done = cut_over(model, settings, watch, interval, max_error_rate, on_counts)
        row = {
            "active": done.active, "previous": done.previous, "model": done.model,
            "rolled_back": done.reason is not None, "reason": done.reason,
            "fallback_ready": done.fallback_ready, "watched_s": round(done.watched_s, 1),
            **asdict(done.counts),
        }  # fmt: skip
        if done.reason is not None:
            message = f"{done.reason}; the settings are as they were before"
            error = EngineError("cutover", message, "gearshift doctor")
            if as_json:
                print_json(row | {"error": error.as_dict()})
            fail(error, as_json=False)
        if as_json:
            print_json(row)
            return
        out.print(f"{done.previous} → {done.active}: {_counted(done.counts)}", markup=False)
        if done.watched_s < watch:
            out.print(f"it was watched for {done.watched_s:.0f} s only", markup=False)
        if not done.fallback_ready:
            out.print("Ollama does not answer, so nothing stands behind vLLM now", markup=False)
        out.print("  a workbench that runs takes it when it is started again", markup=False)
        out.print("  back: gearshift migrate rollback", markup=False)


def _counted(counts: Counts) -> str:
    if not counts.probes:
        return "it was not watched"
    if counts.requests is None:
        return f"{counts.probes_failed} of {counts.probes} of our requests failed"
    return f"{counts.failed} of {counts.requests} requests failed"


@app.command()
def rollback(as_json: JSON = False) -> None:
    """Put the settings back as they were before the last cut-over."""
    from gearshift.migrate.rollback import roll_back

    with reporting(as_json):
        done = roll_back(load_settings())
        if as_json:
            print_json(done)
            return
        if done["previous"] == done["active"]:
            out.print(f"it was taken back before: chats go to {done['active']}", markup=False)
            return
        out.print(f"{done['previous']} → {done['active']}, in {done['file']}", markup=False)
        if not done["exact"]:
            out.print("the file was changed since: only LLM_PROVIDER went back", markup=False)
