"""What the commands of a migration share: which models they are about, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gearshift.cli._report import err
from gearshift.errors import EngineError
from gearshift.settings import Settings

if TYPE_CHECKING:
    from gearshift.migrate.inventory import Item

MODELFILE = Annotated[
    list[Path] | None,
    typer.Option(help="A Modelfile, in place of a running Ollama; may be given several times."),
]


def items_of(modelfiles: list[Path] | None, settings: Settings) -> list[Item]:
    from gearshift.migrate.inventory import of_files, of_ollama

    return of_files(modelfiles) if modelfiles else of_ollama(settings)


def chosen(items: list[Item], model: str | None) -> list[Item]:
    if model is None:
        return items
    found = [i for i in items if model in (i.name, i.name.removesuffix(":latest"))]
    if not found:
        names = ", ".join(item.name for item in items) or "none"
        raise EngineError("model", f"Ollama has no {model}", f"it has: {names}")
    return found


@contextmanager
def progress(as_json: bool) -> Iterator[Callable[[str, float | None], None]]:
    """A line on stderr that says what is done; nothing there for scripts."""
    if as_json:
        yield lambda words, share: None
        return
    with err.status("") as status:

        def show(words: str, share: float | None) -> None:
            status.update(words if share is None else f"{words} {share:.0%}")

        yield show
