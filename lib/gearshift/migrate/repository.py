"""Which repository of the Hub a model of Ollama's comes from: by its name and by its numbers.

Names get re-pointed to newer models, so numbers decide where both are known, and doubt is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.engine.gguf_header import read_header
from gearshift.engine.models import known_models, known_shapes
from gearshift.errors import EngineError
from gearshift.migrate.inventory import Item
from gearshift.providers import counterparts

_NUMBERS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
_ON_HUB = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/(?P<repo>[\w.-]+/[\w.-]+)", re.I)
_GGUF_NAME = re.compile(r"[-_.](i1-)?gguf$", re.I)
_IS_FILE = re.compile(r"^[./~\\]|^[A-Za-z]:[\\/]|\.(gguf|bin|safetensors)$|sha256[-:]", re.I)


@dataclass(frozen=True)
class Repository:
    """Where the weights of a model are on the Hub.

    Attributes:
        hub: Its id; `None` if nothing tells.
        doubt: What speaks against it, or is not known; empty if name and numbers agree.
        others: Ids that it could be as well.
        shape: The numbers that it was looked for with.
    """

    hub: str | None
    doubt: str = ""
    others: tuple[str, ...] = ()
    shape: Mapping[str, Any] | None = None


def find_repository(item: Item) -> Repository:
    """The most likely repository for a model."""
    shape, problem = _shape(item)
    named = _named(item)
    if shape is None:
        return _by_name(named, problem)
    agreeing = [name for name in named if _agrees(name, shape)]
    if agreeing:
        return Repository(agreeing[0], "", tuple(agreeing[1:]), shape)
    alike = [name for name in known_models() if _agrees(name, shape)]
    unknown = [name for name in named if name.lower() not in known_shapes()]
    if unknown:
        doubt = f"its name says so; the numbers of {unknown[0]} are not known here"
        return Repository(unknown[0], doubt, tuple(alike), shape)
    numbers = f"{shape['num_hidden_layers']} layers of {shape['hidden_size']}"
    if named and alike:
        doubt = f"its name means {named[0]}, whose numbers are others; {numbers} are those of this"
        return Repository(alike[0], doubt, tuple(alike[1:]), shape)
    if named:
        doubt = f"its name means {named[0]}, but it has {numbers}, which that has not"
        return Repository(None, doubt, tuple(named), shape)
    if alike:
        doubt = "by its numbers alone, and models that were made from it have the same"
        return Repository(alike[0], doubt, tuple(alike[1:]), shape)
    return Repository(None, f"no known model has {numbers}", (), shape)


def _by_name(named: list[str], problem: str) -> Repository:
    if not named:
        return Repository(None, problem or "nothing tells what model it is")
    doubt = "by its name alone: Ollama may have re-pointed it"
    return Repository(named[0], f"{doubt}; {problem}" if problem else doubt, tuple(named[1:]))


def _named(item: Item) -> list[str]:
    """Ids that the names mean: the one of FROM first, then Ollama's own."""
    names = [item.base or ""]
    if not item.from_file:
        names.insert(0, item.name)
    found: list[str] = []
    for name in names:
        if match := _ON_HUB.match(name):
            found.append(_GGUF_NAME.sub("", match["repo"]))
        elif name and not _IS_FILE.search(name):
            found += counterparts(name)[1]
    return list(dict.fromkeys(found))


def _shape(item: Item) -> tuple[Mapping[str, Any] | None, str]:
    """The numbers that Ollama told, or that the GGUF file beside a Modelfile has."""
    if item.shape is not None and all(item.shape.get(key) for key in _NUMBERS[:2]):
        return item.shape, ""
    base = item.base or ""
    if not _IS_FILE.search(base):
        return None, ""
    path = Path(base).expanduser()
    if item.from_file and not path.is_absolute():
        path = Path(item.name).parent / path
    if not path.is_file():
        return None, f"{base} is not here"
    try:
        return read_header(path), ""
    except EngineError as wrong:
        return None, wrong.message


def _agrees(name: str, shape: Mapping[str, Any]) -> bool:
    known = known_shapes().get(name.lower())
    if known is None:
        return False
    pairs = [(known.get(key), shape.get(key)) for key in _NUMBERS]
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    return len(both) >= 2 and all(one == other for one, other in both)
