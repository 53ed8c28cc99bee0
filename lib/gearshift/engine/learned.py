"""What this machine's own start-ups showed: how long they took, and where the plan was wrong.

Each start-up that got ready is a line of `servers/startups.jsonl` in GEARSHIFT_HOME.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gearshift.engine.cards import Card, find_card
from gearshift.engine.fit import Correction, Setup, plan
from gearshift.engine.geometry import read_geometry
from gearshift.engine.startup_log import Startup
from gearshift.settings import Settings

_ALIKE = 0.03  # two GPUs of one kind tell their memory within this share of each other
_RECENT = 5


def _file(settings: Settings) -> Path:
    return settings.home_dir / "servers" / "startups.jsonl"


def remember(settings: Settings, startup: Startup) -> None:
    """Adds a start-up; the next one does without if that cannot be written."""
    with suppress(OSError), _file(settings).open("a", encoding="utf-8") as file:
        file.write(json.dumps(startup.model_dump(exclude_none=True)) + "\n")


def recall(settings: Settings) -> list[Startup]:
    """All of them, oldest first; lines that are damaged are left out."""
    try:
        lines = _file(settings).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        with suppress(ValidationError):
            found.append(Startup.model_validate_json(line))
    return found


def usual_seconds(settings: Settings, model: str) -> float | None:
    """How long the last starts of a model took here; `None` if there were none."""
    seconds = [row.seconds for row in recall(settings) if row.model == model and row.seconds]
    return statistics.median(seconds[-_RECENT:]) if seconds else None


def nearest(startups: Iterable[Startup], setup: Setup, model: str) -> Startup | None:
    """The start-up that says most about this setup: of the same GPU, the same model, the latest."""
    card = setup.card
    alike = [row for row in startups if row.available_kv_gib and card and _same(card, row)]

    def likeness(row: Startup) -> tuple[bool, bool, bool]:
        return (
            row.model == model,
            (row.tensor_parallel, row.pipeline_parallel)
            == (setup.tensor_parallel, setup.pipeline_parallel),
            setup.version in (None, row.version),
        )

    return max(reversed(alike), key=likeness, default=None)


def _same(card: Card, startup: Startup) -> bool:
    other = find_card(startup.gpu or "")
    theirs, ours = startup.usable_gib or other.usable_gib, card.usable_gib
    if other.name != card.name or theirs is None or ours is None:
        return False
    return abs(theirs - ours) <= _ALIKE * ours


def correction(
    startup: Startup, config: Mapping[str, Any], setup: Setup, same_model: bool
) -> Correction:
    """How far the plan was from that start-up, to be carried over to the next.

    Args:
        config: The `config.json` of the start-up's model.
        setup: The next one; its GPU is taken to be the start-up's.

    Raises:
        EngineError: the configuration does not tell the shape.
    """
    none = Correction(0.0)
    if startup.weights_gib is None or startup.available_kv_gib is None:
        return none
    shape = read_geometry(config, None, startup.quantization, startup.dtype)
    then = Setup(
        usable_gib=setup.usable_gib,
        tensor_parallel=startup.tensor_parallel,
        pipeline_parallel=startup.pipeline_parallel,
        max_model_len=startup.max_model_len,
        kv_cache_dtype=startup.kv_cache_dtype,
        utilization=startup.utilization,
        max_num_seqs=startup.max_num_seqs,
        max_num_batched_tokens=startup.max_num_batched_tokens,
        enforce_eager=startup.enforce_eager,
        version=startup.version,
        card=setup.card,
    )
    found = plan(shape, then)
    if found.available_kv_gib is None:
        return none
    weights = startup.weights_gib / found.weights_gib
    overhead = found.available_kv_gib + found.weights_gib
    overhead -= startup.available_kv_gib + startup.weights_gib
    cache = 1.0
    if startup.kv_cache_tokens and found.kv_cache_tokens and startup.available_kv_gib > 0:
        real = startup.available_kv_gib / startup.kv_cache_tokens
        cache = real / (found.available_kv_gib / found.kv_cache_tokens)
    if not same_model:
        weights = cache = 1.0  # what is wrong about one model's shape says nothing about another's
    return Correction(overhead, weights, cache)
