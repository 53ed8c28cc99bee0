"""How a model is to be served, and what vLLM of that version takes where it is not said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from gearshift.engine.cards import Card

if TYPE_CHECKING:
    from gearshift.engine.geometry import Geometry

LATEST = Version("0.32.0")


@dataclass(frozen=True)
class Correction:
    """What an earlier start-up on the same GPU showed of the formula's error.

    Attributes:
        overhead_gib: To be added, on each GPU.
        weights: Real by predicted; 1 unless it was the same model.
        cache: The same of the bytes that a token takes.
    """

    overhead_gib: float
    weights: float = 1.0
    cache: float = 1.0

    @property
    def seen(self) -> bool:
        """Whether a start-up has been seen at all."""
        return self != Correction(0.0)


@dataclass(frozen=True)
class Setup:
    """How a model is to be served; `None` leaves it to vLLM.

    Attributes:
        usable_gib: Of each GPU; `None` if it is not known.
        gpus: How many there are; `None` if nobody says.
        version: Of vLLM; `None` if it is not known.
    """

    usable_gib: float | None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_model_len: int | None = None
    kv_cache_dtype: str | None = None
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    version: str | None = None
    card: Card | None = None
    gpus: int | None = None
    correction: Correction = Correction(0.0)

    @property
    def vllm(self) -> Version:
        """Its version to compare; the newest that we know where it is not told."""
        try:
            found = Version(self.version) if self.version else LATEST
        except InvalidVersion:
            return LATEST
        return Version(found.base_version)

    def since(self, version: str) -> bool:
        """Whether vLLM is of that version or later."""
        return self.vllm >= Version(version)


def batching(shape: Geometry, setup: Setup) -> tuple[int, int]:
    """Sequences and tokens in a step, by vLLM's defaults where they are not set."""
    usable = setup.usable_gib or 0.0
    large = usable >= 70 and not (setup.card and setup.card.name in ("A100", "A800", "GB10"))
    sequences, batched = (1024, 8192) if large else (256, 2048)
    if large and usable >= 160:
        batched = 16_384
    if not setup.since("0.8"):  # V0 engines
        length = setup.max_model_len or shape.max_len or 2048
        sequences, batched = 256, 2048 if length > 32_768 else max(length, 2048)
    return setup.max_num_seqs or sequences, setup.max_num_batched_tokens or batched


def utilization(setup: Setup) -> float:
    """The share of the memory that vLLM takes."""
    return setup.utilization or (0.92 if setup.since("0.22") else 0.9)


def own_length(shape: Geometry, setup: Setup) -> int | None:
    """The longest context that vLLM of that version takes; `None` if nothing tells."""
    return shape.lengths.most if setup.since("0.32") else shape.lengths.before


def length_of(shape: Geometry, setup: Setup) -> int:
    """The longest context that is served: as asked, else as vLLM takes it by itself."""
    if setup.max_model_len:
        return setup.max_model_len
    own = own_length(shape, setup) or 2048
    return min(own, shape.lengths.usual or own) if setup.since("0.12") else own
