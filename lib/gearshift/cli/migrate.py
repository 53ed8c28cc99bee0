"""`gearshift migrate inventory · plan · convert`: what there is, and what it becomes on vLLM."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gearshift.cli._migration import MODELFILE, chosen, items_of, progress
from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.errors import EngineError
from gearshift.settings import load_settings

if TYPE_CHECKING:
    from gearshift.migrate.inventory import Item
    from gearshift.migrate.plan import Move

app = typer.Typer()


@app.command()
def inventory(modelfile: MODELFILE = None, as_json: JSON = False) -> None:
    """List what there is to move: models, and what they are made of."""
    with reporting(as_json):
        rows = [_item_row(item) for item in items_of(modelfile, load_settings())]
        if as_json:
            print_json({"models": rows})
            return
        for row in rows:
            _show_item(row)
        if not rows:
            out.print("Ollama has no model. Next: ollama pull mistral")


def _item_row(item: Item) -> dict[str, Any]:
    file = item.modelfile
    return {
        "name": item.name,
        "from": item.base,
        "parameters": [list(pair) for pair in file.parameters],
        "system": file.last("system"),
        "template": file.last("template"),
        "messages": [{"role": role, "content": text} for role, text in file.messages],
        "adapters": file.all("adapter"),
        "licenses": len(file.all("license")),
        "valid": file.error is None and item.problem is None,
        "error": file.error or item.problem,
        "architecture": item.architecture,
        "parameter_count": item.parameter_count,
        "quantization": item.quantization,
        "context_length": item.context,
        "size_bytes": item.size_bytes,
        "loaded": item.loaded,
        "default": item.default,
        "embeds": item.embeds,
    }


def _show_item(row: dict[str, Any]) -> None:
    out.print(row["name"], style="bold", markup=False)
    if row["error"]:
        out.print(f"  Ollama rejects it: {row['error']}", style="red", markup=False)
        return
    facts = [
        row["architecture"],
        row["parameter_count"] and f"{row['parameter_count'] / 1e9:.2f}B parameters",
        row["quantization"],
        row["context_length"] and f"context {row['context_length']:,}",
        row["size_bytes"] and f"{row['size_bytes'] / 1e9:.1f} GB",
        "in memory" if row["loaded"] else None,
        "chats go to it" if row["default"] else None,
    ]
    out.print("  " + ", ".join(fact for fact in facts if fact), markup=False)
    out.print(f"  from {row['from']}", markup=False, soft_wrap=True)
    for name, value in row["parameters"]:
        out.print(f"  {name} {value!r}", markup=False)
    for name in ("system", "template"):
        if row[name]:
            out.print(f"  {name}: {len(row[name])} characters", markup=False)
    for name in ("messages", "adapters"):
        if row[name]:
            out.print(f"  {name}: {len(row[name])}", markup=False)


@app.command()
def plan(
    model: Annotated[str | None, typer.Argument(help="One model of Ollama's; else all.")] = None,
    modelfile: MODELFILE = None,
    document: Annotated[
        Path | None, typer.Option(help="Write the plan there, as Markdown to review.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Work out what each model becomes on vLLM, and each of its parameters."""
    from gearshift import gpu as hardware
    from gearshift.migrate.plan import document as as_document
    from gearshift.migrate.plan import plan_move, write_template

    if model is not None and modelfile:
        raise typer.BadParameter("give a model or --modelfile, not both")
    with reporting(as_json):
        settings = load_settings()
        items = chosen(items_of(modelfile, settings), model)
        gpus = hardware.look().gpus
        moves = [plan_move(item, settings, gpus) for item in items]
        for move in moves:
            write_template(move)
        text = "\n".join(as_document(move) for move in moves)
        if document is not None:
            _write(document, text)
        if as_json:
            rows = [_move_row(move) for move in moves]
            print_json(
                {"models": rows, "mapping": [fate for row in rows for fate in row["mapping"]]}
            )
        elif document is not None:
            out.print(f"the plan is in {document}", markup=False)
        else:
            out.print(text, markup=False, soft_wrap=True)


@app.command()
def convert(
    model: Annotated[str | None, typer.Argument(help="A model of Ollama's.")] = None,
    gguf: Annotated[Path | None, typer.Option(help="A GGUF file, in place of Ollama's.")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to make.")] = None,
    as_json: JSON = False,
) -> None:
    """Make a checkpoint that vLLM serves of the very weights that Ollama has."""
    from dataclasses import asdict

    from gearshift.migrate.convert import convert as convert_file
    from gearshift.migrate.inventory import gguf_of
    from gearshift.migrate.mapping import fates
    from gearshift.migrate.plan import translated
    from gearshift.migrate.serving import checkpoint_folder, serving

    if model is None and gguf is None:
        raise typer.BadParameter("give a model of Ollama's, or --gguf FILE")
    with reporting(as_json):
        settings = load_settings()
        if gguf is None:
            assert model is not None
            (item,) = chosen(items_of(None, settings), model)[:1]
            source, name = gguf_of(item), item.name
            template, _ = translated(item)
        else:
            source, name = gguf, model or gguf.stem
            item, template = None, None
        target = (output or checkpoint_folder(name, settings)).expanduser().absolute()
        with progress(as_json) as show:
            found = convert_file(source, target, settings, show, model, template)
        command = ["gearshift", "serve", str(found.folder)]
        if item is not None:
            parameters = fates(item.modelfile, item.context)
            command = serving(str(found.folder), item, parameters).command(settings)
        if as_json:
            checks = [asdict(check) for check in found.checks]
            print_json(
                {"checkpoint": str(found.folder), "source": str(source), "ok": found.ok}
                | {"checks": checks, "command": command}
            )
            return
        marks = {True: "✓", False: "✗", None: "?"}
        for check in found.checks:
            out.print(f"{marks[check.ok]} {check.name}: {check.message}", markup=False)
        out.print(f"{found.folder}\n  next: {shlex.join(command)}", markup=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as problem:
        raise EngineError(
            "document", f"{path} cannot be written: {problem.strerror}", "name another file"
        ) from None


def _move_row(move: Move) -> dict[str, Any]:
    weights, repository = move.weights, move.repository
    return {
        "name": move.item.name,
        "valid": move.item.modelfile.error is None,
        "error": move.item.modelfile.error,
        "repository": repository.hub,
        "doubt": repository.doubt or None,
        "other_repositories": list(repository.others),
        "quantization": {
            "now": weights.now,
            "nearest": weights.nearest,
            "take": weights.take,
            "why": weights.why,
        },
        "command": move.command,
        "chat_template": move.template,
        "chat_template_note": move.template_note,
        "request_defaults": move.defaults,
        "mapping": [
            {
                "model": move.item.name,
                "parameter": fate.parameter,
                "value": fate.value,
                "becomes": fate.becomes,
                "where": fate.where,
                "gives": fate.gives,
                "note": fate.note,
            }
            for fate in move.fates
        ],
    }
