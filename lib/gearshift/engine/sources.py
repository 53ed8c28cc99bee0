"""Where the shape of a model is found: a file, a folder, a GGUF header, our table, or the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.engine.gguf_header import MAGIC, read_header
from gearshift.engine.hub import fetch_config
from gearshift.engine.models import find_model
from gearshift.errors import EngineError
from gearshift.settings import Settings


@dataclass(frozen=True)
class Source:
    """A model's configuration.

    Attributes:
        config: Its `config.json`, or the same keys.
        serves: What `serve` would be given.
        note: What has to be said of the figures, if anything.
        names: What `serve` would let clients call it.
    """

    config: dict[str, Any]
    serves: str
    note: str | None = None
    names: tuple[str, ...] = ()


def find_source(model: str, settings: Settings) -> Source:
    """Looks for it, and asks the Hub last.

    Raises:
        EngineError: nobody tells, or what is there cannot be read.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _from_file(path)
    found = find_model(model, settings)
    if found.config is not None:
        return Source(found.config, found.source, names=found.names)
    if found.problem or Path(found.source).is_absolute():
        problem = found.problem or f"the shape of {found.source} is not known here"
        raise EngineError("model", problem, "give its config.json, or the folder that has it")
    try:
        return Source(fetch_config(found.source, settings), found.source, names=found.names)
    except EngineError as problem:
        message = f"the shape of {found.source} is not known here, and {problem.message}"
        raise EngineError("model", message, problem.hint) from None


def _from_file(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        if start == MAGIC:
            note = "vLLM serves no GGUF files: the figures are for the same weights in 16 bits"
            return Source(read_header(path), str(path.absolute()), note)
        config = json.loads(path.read_text("utf-8"))
    except OSError as wrong:
        raise EngineError(
            "model", f"{path} cannot be read: {wrong.strerror}", "give a config.json"
        ) from None
    except (ValueError, RecursionError):
        raise EngineError(
            "model", f"{path} is neither JSON nor a GGUF file", "give a config.json or a GGUF file"
        ) from None
    if not isinstance(config, dict):
        raise EngineError("model", f"{path} is not a model's configuration", "give a config.json")
    return Source(config, str(path.absolute().parent))
