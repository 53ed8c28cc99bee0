"""`gearshift …`: the command line. Thin: each command is one function over the library.

With `--json` a command prints one JSON object to stdout and nothing else there. Exit status: 0
done, 1 failed (`error` in the JSON; reason and next step on stderr), 2 wrong usage.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gearshift import __version__, logs
from gearshift.errors import GearshiftError
from gearshift.providers import BaseLLMService, LLMServiceFactory, Watch, chain, run
from gearshift.settings import PROVIDERS, load_settings, save_setting

app = typer.Typer(
    help="A RAG workbench that runs on Ollama and shifts to vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_PATIENCE = 2.0  # seconds that `providers` waits

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
CollectionName = Annotated[
    str | None, typer.Option("--collection", "-c", help="A named collection of documents.")
]


def _known_provider(name: str | None) -> str | None:
    if name is not None and name.lower() not in PROVIDERS:
        raise typer.BadParameter(f"choose one of {', '.join(PROVIDERS)}")
    return name and name.lower()


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")


def _fail(error: GearshiftError, as_json: bool) -> NoReturn:
    if as_json:
        _print_json({"error": error.as_dict()})
    err.print(f"gearshift: {error.message}", style="red", markup=False)
    if error.hint:
        err.print(f"  next: {error.hint}", markup=False)
    raise typer.Exit(1)


@contextmanager
def _reporting(as_json: bool) -> Iterator[None]:
    """Turns every failure into the contract's form; nothing ends in a traceback."""
    try:
        logs.configure(load_settings(), console=False)
        yield
    except typer.Exit:
        raise
    except GearshiftError as error:
        _fail(error, as_json)
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(1) from None
    except Exception as bug:
        logging.getLogger(__name__).exception("unexpected")
        where = load_settings().home_dir / "logs" / "gearshift.log"
        _fail(
            GearshiftError(
                f"unexpected {type(bug).__name__}: {bug}", hint=f"please report it; see {where}"
            ),
            as_json,
        )


def _service(name: str) -> BaseLLMService:
    return LLMServiceFactory.get_service(name)


@app.command()
def ask(
    question: str,
    provider: Annotated[
        str | None, typer.Option(help="Ask this provider first.", callback=_known_provider)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Ask this model.")] = None,
    collection: CollectionName = None,
    no_fallback: Annotated[bool, typer.Option(help="Fail rather than ask another one.")] = False,
    no_retrieval: Annotated[bool, typer.Option(help="Ask without documents.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    as_json: JSON = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from gearshift.rag.chat import Ask, begin, write_answer
    from gearshift.rag.conversations import Conversation
    from gearshift.rag.library import to_ask

    with _reporting(as_json):
        if not question.strip():
            raise GearshiftError("the question is empty", hint='gearshift ask "How …?"')
        services = chain(provider or LLMServiceFactory.active(), _service, not no_fallback)
        what = Ask(
            question,
            services,
            None if no_retrieval else lambda: to_ask(collection),
            model=model,
            insist=model is not None,
            max_tokens=max_tokens,
        )
        conversation = Conversation()
        answer = begin(conversation, question)
        show = (lambda text: None) if as_json else _write
        run(write_answer(what, conversation, answer, show))
        record = answer_record(answer)
        if answer.error is not None:
            if not as_json and answer.text:
                out.print()
            for name, why in answer.skipped.items():
                if why == answer.error["message"]:
                    continue
                err.print(f"{name} did not answer: {why}", style="yellow", markup=False)
            _fail(_as_error(answer.error), as_json)
        if as_json:
            _print_json(record)
        else:
            _show_sources(record)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _as_error(record: dict[str, str]) -> GearshiftError:
    error = GearshiftError(record["message"], record["hint"], record["partial"])
    error.kind = record["kind"]
    return error


def answer_record(answer: Any) -> dict[str, Any]:
    """The JSON of `ask`, from an `Answer`."""
    return {
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "finish_reason": answer.finish_reason,
        "complete": answer.complete,
        "sources": [
            {
                "number": source.number,
                "id": source.passage.id,
                "document": source.passage.document,
                "heading": list(source.passage.heading),
                "page": source.passage.page,
                "text": source.passage.text,
                "score": source.score,
            }
            for source in answer.sources
        ],
        "citations": [
            {
                "number": citation.number,
                "passage": citation.passage,
                "by": citation.by,
                "start": citation.start,
                "end": citation.end,
                "score": citation.score,
            }
            for citation in answer.citations
        ],
        "unsupported": [
            {"start": start, "end": end, "text": answer.text[start:end]}
            for start, end in answer.unsupported
        ],
        "provider": answer.provider,
        "model": answer.model,
        "fallback_from": answer.fallback_from,
        "skipped": answer.skipped,
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
        },
        "timings": {
            "retrieval_s": answer.timings.retrieval_s,
            "ttft_s": answer.timings.ttft_s,
            "total_s": answer.timings.total_s,
        },
        "dropped": [{"what": item.what, "name": item.name} for item in answer.dropped],
    }


def _show_sources(record: dict[str, Any]) -> None:
    out.print("\n")
    cited = {c["number"] for c in record["citations"] if c["passage"]}
    for source in record["sources"]:
        mark = "cited" if source["number"] in cited else ""
        place = " › ".join([source["document"], *source["heading"]])
        out.print(f"[{source['number']}] {place} {mark}".rstrip(), style="dim", markup=False)
    for citation in record["citations"]:
        if citation["passage"] is None:
            out.print(f"[{citation['number']}] points nowhere", style="yellow", markup=False)
    for name, why in record["skipped"].items():
        out.print(f"{name} did not answer: {why}", style="yellow", markup=False)
    if record["dropped"]:
        names = ", ".join(item["name"] for item in record["dropped"])
        out.print(f"left out of the prompt for want of room: {names}", style="yellow", markup=False)
    if record["finish_reason"] == "length":
        out.print("cut: the answer reached its longest length", style="yellow", markup=False)
    total = record["timings"]["total_s"]
    out.print(
        f"{record['provider']} · {record['model']} · {total:.1f} s", style="dim", markup=False
    )


@app.command()
def ingest(
    paths: Annotated[list[str], typer.Argument(help="Files and folders.", show_default=False)],
    collection: CollectionName = None,
    embedder: Annotated[
        str | None, typer.Option(help="minilm, or ollama:MODEL, vllm:MODEL, for a new collection.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Take documents in: Markdown, text, PDF, DOCX, HTML."""
    from gearshift.rag import library
    from gearshift.rag.ingest import OK_STATUSES
    from gearshift.rag.ingest import ingest as take_in

    with _reporting(as_json):
        target = library.collection(collection or library.DEFAULT, embedder)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=err, transient=True, disable=as_json) as bar:
            task = bar.add_task("", total=None)

            def progress(done: int, total: int, name: str) -> None:
                bar.update(task, completed=done, total=total, description=Path(name).name[:40])

            outcomes = list(take_in(paths, target, progress=progress))
        rows = [
            {
                "path": outcome.path,
                "status": outcome.status,
                "passages": outcome.passages,
                "reason": outcome.reason,
            }
            for outcome in outcomes
        ]
        if as_json:
            _print_json({"documents": rows})
        else:
            for row in rows:
                reason = f": {row['reason']}" if row["reason"] else ""
                out.print(f"{row['status']:<10} {row['path']}{reason}", markup=False)
        if any(outcome.status not in OK_STATUSES for outcome in outcomes):
            raise typer.Exit(1)


@app.command()
def rebuild(
    collection: CollectionName = None,
    embedder: Annotated[
        str | None, typer.Option(help="Another one: minilm, ollama:MODEL, vllm:MODEL.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Make a collection's index anew from its stored texts."""
    from gearshift.rag import library

    with _reporting(as_json):
        made = library.rebuild(collection or library.DEFAULT, embedder)
        count = len(made.documents())
        used = made.embedder.fingerprint.name
        if as_json:
            _print_json({"collection": made.name, "documents": count, "embedder": used})
        else:
            out.print(f"{made.name}: {count} documents, embedded by {used}", markup=False)


@app.command()
def search(
    query: str,
    collection: CollectionName = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Passages to show.")] = 5,
    as_json: JSON = False,
) -> None:
    """Find passages."""
    from gearshift.rag.library import to_ask

    with _reporting(as_json):
        hits = to_ask(collection).search(query, k)
        rows: list[dict[str, Any]] = [
            {
                "document": hit.passage.document,
                "text": hit.passage.text,
                "score": hit.score,
                "id": hit.passage.id,
                "heading": list(hit.passage.heading),
                "page": hit.passage.page,
            }
            for hit in hits
        ]
        if as_json:
            _print_json({"hits": rows})
            return
        for row in rows:
            place = " › ".join([row["document"], *row["heading"]])
            out.print(f"{row['score']:.3f} {place}", style="bold", markup=False)
            out.print(row["text"], markup=False)


@app.command()
def providers(as_json: JSON = False) -> None:
    """Show which providers can answer."""
    with _reporting(as_json):
        services = [_service(name) for name in PROVIDERS]
        rows: list[dict[str, Any]] = [
            {
                "name": service.name,
                "ready": look.status.ready,
                "url": service.url or None,
                "models": [model.name for model in look.models],
                "detail": look.status.detail if look.seen else "It does not answer.",
                "version": look.status.version,
            }
            for service, look in zip(services, Watch().look(services, _PATIENCE), strict=True)
        ]
        active = LLMServiceFactory.active()
        if as_json:
            _print_json({"providers": rows, "active": active})
            return
        table = Table("", "provider", "state", "models", "detail")
        for row in rows:
            table.add_row(
                "→" if row["name"] == active else "",
                row["name"],
                "ready" if row["ready"] else "not ready",
                ", ".join(row["models"]),
                row["detail"],
            )
        out.print(table)


@app.command()
def switch(
    provider: Annotated[str, typer.Argument(callback=_known_provider)], as_json: JSON = False
) -> None:
    """Make a provider the default: writes LLM_PROVIDER into .env."""
    with _reporting(as_json):
        previous = LLMServiceFactory.active()
        name = LLMServiceFactory.switch(provider).name
        if not save_setting("LLM_PROVIDER", name):
            raise GearshiftError(
                f"LLM_PROVIDER={previous} in the environment wins over .env, "
                f"where {name} is written now",
                hint="unset LLM_PROVIDER in the environment",
            )
        if as_json:
            _print_json({"active": name, "previous": previous})
        else:
            out.print(f"{previous} → {name}")


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _gearshift(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of `gearshift`."""
    app()
