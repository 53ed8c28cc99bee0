"""`gearshift ask · ingest · search · …`: answers from documents, by one provider or another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from gearshift.cli._report import JSON, err, fail, out, print_json, reporting
from gearshift.errors import GearshiftError
from gearshift.providers import BaseLLMService, LLMServiceFactory, Watch, chain, run
from gearshift.settings import ENV_FILE, PROVIDERS, save_setting

app = typer.Typer()

_PATIENCE = 2.0  # seconds that `providers` waits

CollectionName = Annotated[
    str | None, typer.Option("--collection", "-c", help="A named collection of documents.")
]


def _known_provider(name: str | None) -> str | None:
    if name is not None and name.lower() not in PROVIDERS:
        raise typer.BadParameter(f"choose one of {', '.join(PROVIDERS)}")
    return name and name.lower()


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
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail rather than ask another one.")
    ] = False,
    no_retrieval: Annotated[
        bool, typer.Option("--no-retrieval", help="Ask without documents.")
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    as_json: JSON = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from gearshift.rag.chat import Ask, begin, write_answer
    from gearshift.rag.conversations import Conversation
    from gearshift.rag.library import to_ask, which_to_ask

    with reporting(as_json):
        if not question.strip():
            raise GearshiftError("the question is empty", hint='gearshift ask "How …?"')
        asked = None if no_retrieval else collection or which_to_ask()
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
        record = answer_record(answer) | {"collection": asked}
        if answer.error is not None:
            if not as_json and answer.text:
                out.print()
            for name, why in answer.skipped.items():
                if why == answer.error["message"]:
                    continue
                err.print(f"{name} did not answer: {why}", style="yellow", markup=False)
            fail(_as_error(answer.error), as_json)
        if as_json:
            print_json(record)
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
    documents = f"documents: {record['collection']} · " if record["collection"] else ""
    text = f"{documents}{record['provider']} · {record['model']} · {total:.1f} s"
    out.print(text, style="dim", markup=False)


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

    with reporting(as_json):
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
            print_json({"documents": rows})
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

    with reporting(as_json):
        made = library.rebuild(collection or library.DEFAULT, embedder)
        count = len(made.documents())
        used = made.embedder.fingerprint.name
        if as_json:
            print_json({"collection": made.name, "documents": count, "embedder": used})
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

    with reporting(as_json):
        asked = to_ask(collection)
        hits = asked.search(query, k)
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
            print_json({"hits": rows, "collection": asked.name})
            return
        for row in rows:
            place = " › ".join([row["document"], *row["heading"]])
            out.print(f"{row['score']:.3f} {place}", style="bold", markup=False)
            out.print(row["text"], markup=False)


@app.command()
def providers(as_json: JSON = False) -> None:
    """Show which providers can answer."""
    with reporting(as_json):
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
            print_json({"providers": rows, "active": active})
            return
        table = Table("", "provider", "state", "address", "models", box=SIMPLE_HEAD)
        for row in rows:
            cells = (
                "→" if row["name"] == active else "",
                row["name"],
                "ready" if row["ready"] else "not ready",
                row["url"] or "",
                ", ".join(row["models"]),
            )
            table.add_row(*map(Text, cells))  # a server may call its models anything, markup too
        out.print(table)
        for row in rows:
            out.print(f"{row['name']}: {row['detail']}", markup=False)


@app.command()
def switch(
    provider: Annotated[str, typer.Argument(callback=_known_provider)], as_json: JSON = False
) -> None:
    """Make a provider the default: writes LLM_PROVIDER into .env."""
    with reporting(as_json):
        previous = LLMServiceFactory.active()
        name = LLMServiceFactory.switch(provider).name
        if not save_setting("LLM_PROVIDER", name):
            raise GearshiftError(
                f"LLM_PROVIDER={previous} in the environment wins over .env, "
                f"where {name} is written now",
                hint="unset LLM_PROVIDER in the environment",
            )
        if as_json:
            print_json({"active": name, "previous": previous})
            return
        out.print(f"{previous} → {name}, written into {ENV_FILE.absolute()}", markup=False)
        service = LLMServiceFactory.get_service(name)
        (look,) = Watch().look([service], patience=2.0)
        out.print(f"{service.label}: {look.status.detail}", markup=False)
