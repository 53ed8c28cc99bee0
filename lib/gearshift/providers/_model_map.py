"""Names of models: which of them mean the same model, and which of those offered to take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from gearshift.data import DATA
from gearshift.schemas import ModelInfo


@lru_cache(maxsize=1)
def _rows() -> list[dict[str, list[str]]]:
    """For each model its names: Ollama's tags and the Hub's ids."""
    rows: list[dict[str, list[str]]] = json.loads((DATA / "model-map.json").read_text("utf-8"))
    return rows


@lru_cache(maxsize=1)
def _names() -> list[set[str]]:
    """For each model all its names, in lower case."""
    return [{name.lower() for name in row["ollama"] + row["hub"]} for row in _rows()]


def _bare(name: str) -> str:
    return name.removesuffix(":latest").lower()


def same_model(offered: str, wanted: str) -> bool:
    """Whether two names mean one model: the same but for `:latest`, or paired in the model map.

    A folder or an owner in front of a Hub name does not matter: `/models/Mistral-7B-Instruct-v0.2`
    is `mistralai/Mistral-7B-Instruct-v0.2`, which is Ollama's `mistral`.
    """
    one, other = _bare(offered), _bare(wanted)
    if one == other or one.rpartition("/")[2] == other.rpartition("/")[2]:
        return True
    return any(
        all(
            any(name == n or name.rpartition("/")[2] == n.rpartition("/")[2] for n in names)
            for name in (one, other)
        )
        for names in _names()
    )


def counterparts(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ollama's names and the Hub's ids of the model, as the model map writes them; maybe none."""
    for row in _rows():
        if any(_bare(known) == _bare(name) for known in row["ollama"] + row["hub"]):
            return tuple(row["ollama"]), tuple(row["hub"])
    return (), ()


def pick(models: Sequence[ModelInfo], asked: str | None, default: str) -> str | None:
    """The model to take: `asked` if it is there, `default`, its counterpart, the first one."""
    names = [model.name for model in models if not model.embeds]
    for wanted in (asked, default):
        if wanted is None:
            continue
        exact = [name for name in names if _bare(name) == _bare(wanted)]
        alike = [name for name in names if same_model(name, wanted)]
        if exact or alike:
            return (exact or alike)[0]
    return names[0] if names else None
