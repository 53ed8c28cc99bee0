"""What can be set on this machine, and to what: the search space.

A person chooses among the parameters (`--parameters "max-num-seqs, max-num-batched-tokens"`), may
name their values (`max-num-seqs=16/64/256`), and fixes one by naming a single value.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gearshift.bench.tuning.trial import Setting
from gearshift.engine.cards import card_of
from gearshift.engine.fit import Setup, batching, utilization
from gearshift.engine.geometry import read_geometry
from gearshift.engine.models import Model, legal_tensor_parallel
from gearshift.engine.processes import processors
from gearshift.engine.profiles import OPTIONS, PROFILES
from gearshift.errors import EngineError
from gearshift.gpu import GPU

# Of the CPU build, for each rank (vllm/engine/arg_utils.py, 0.32).
_CPU_SEQUENCES, _CPU_BATCHED = 128, 2048
_SHORTEST = 1024  # tokens of context that are still worth a try
USUAL = ("max_num_seqs", "max_num_batched_tokens", "memory_utilization")
"""The guide's table: what is searched over when nobody says."""
NAMES = (*USUAL, "max_model_len", "kv_cache_dtype", "chunked_prefill", "prefix_caching",
         "tensor_parallel")  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One thing that can be set.

    Attributes:
        name: The field of `Launch`.
        choices: In order, so that neighbours are alike.
        default: What vLLM takes by itself here; `None` if that is not known.
    """

    name: str
    choices: tuple[Any, ...]
    default: Any

    def nearest(self, value: Any) -> int:
        """The index of the choice that is most like a value, by their ratio."""
        if value in self.choices:
            return self.choices.index(value)
        numbers = [c for c in (value, *self.choices) if isinstance(c, (int, float)) and c > 0]
        if len(numbers) <= len(self.choices):
            return 0
        return min(range(len(self.choices)), key=lambda i: abs(math.log(self.choices[i] / value)))

    def place(self, value: Any) -> float:
        """The index of a value; between two of them where a number lies between two choices."""
        numbers = [c for c in (value, *self.choices) if isinstance(c, (int, float)) and c > 0]
        if value in self.choices or len(numbers) <= len(self.choices):
            return float(self.nearest(value))
        indexes = range(len(self.choices))
        return float(np.interp(math.log(value), [math.log(c) for c in self.choices], indexes))


@dataclass(frozen=True)
class Here:
    """What of a machine and a model decides what can be set.

    Attributes:
        gpus: Those that would be used; empty on a processor.
        longest: Tokens that the load needs at least, prompt and answer together.
    """

    model: Model
    gpus: tuple[GPU, ...]
    longest: int = 0


@dataclass(frozen=True)
class Space:
    """The search space.

    Attributes:
        parameters: What is searched over.
        fixed: What is the same in every setting.
        defaults: What vLLM takes by itself, also of parameters that are not searched over.
    """

    parameters: tuple[Parameter, ...]
    fixed: Setting
    defaults: Setting

    def settings(self) -> Iterator[Setting]:
        """Every setting."""
        for values in itertools.product(*(one.choices for one in self.parameters)):
            yield self._setting(values)

    def at(self, indexes: Sequence[int]) -> Setting:
        """The setting of these choices, by their indexes."""
        pairs = zip(self.parameters, indexes, strict=True)
        return self._setting([one.choices[index] for one, index in pairs])

    def _setting(self, values: Sequence[Any]) -> Setting:
        names = [one.name for one in self.parameters]
        return self.fixed | dict(zip(names, values, strict=True))

    def key(self, setting: Setting) -> tuple[Any, ...]:
        """What a setting comes to: two with the same key are the same server."""
        return tuple(setting.get(one.name, one.default) for one in self.parameters)

    def indexes(self, setting: Setting) -> list[int]:
        """The choices that are most like a setting."""
        values = self.key(setting)
        return [one.nearest(value) for one, value in zip(self.parameters, values, strict=True)]

    def position(self, setting: Setting) -> list[float]:
        """Where a setting lies: for each parameter from 0, the first choice, to 1, the last."""
        pairs = zip(self.parameters, self.key(setting), strict=True)
        return [one.place(value) / max(1, len(one.choices) - 1) for one, value in pairs]

    def beginnings(self) -> list[tuple[str, Setting]]:
        """Where a search begins: vLLM's defaults, then the guide's profiles, as far as they go."""
        found = [("vLLM's defaults", self.fixed)]
        for profile in PROFILES.values():
            values = {
                one.name: one.choices[one.nearest(profile.values[one.name])]
                if one.name in profile.values
                else one.default
                for one in self.parameters
            }
            known = {name: value for name, value in values.items() if value is not None}
            found.append((f"the guide's {profile.name} profile", self.fixed | known))
        return found


def available(here: Here) -> dict[str, Parameter]:
    """What exists on this machine for this model; its values from small to large."""
    shape_of = here.model.number
    own = shape_of("max_position_embeddings")
    setup = _setup(here)
    found = [
        Parameter("kv_cache_dtype", ("auto", "fp8"), "auto"),
        Parameter("chunked_prefill", (False, True), True),
        Parameter("prefix_caching", (False, True), True),
    ]
    if here.gpus:
        sequences, batched = _batching(here, setup)
        found += [
            Parameter("max_num_seqs", (16, 32, 64, 128, 256, 512, 1024), sequences),
            Parameter("max_num_batched_tokens", (1024, 2048, 4096, 8192, 16_384), batched),
            Parameter("memory_utilization", (0.7, 0.8, 0.85, 0.9, 0.92, 0.95), utilization(setup)),
        ]
        ranks = len(here.gpus)
    else:
        found += [
            Parameter("max_num_seqs", (4, 8, 16, 32, 64, 128, 256), _CPU_SEQUENCES),
            Parameter("max_num_batched_tokens", (256, 512, 1024, 2048, 4096, 8192), _CPU_BATCHED),
        ]
        ranks = len(processors())
    if own:
        least = max(_SHORTEST, here.longest)
        lengths = [own >> halved for halved in range(12) if own >> halved >= least]
        found.append(Parameter("max_model_len", tuple(reversed(lengths)) or (own,), own))
    sizes = [size for size in legal_tensor_parallel(here.model, ranks) or [1] if size <= ranks]
    found.append(Parameter("tensor_parallel", tuple(sizes), 1))
    return {one.name: one for one in found if len(one.choices) > 1}


def _setup(here: Here) -> Setup:
    cards = [card_of(gpu) for gpu in here.gpus]
    sizes = [card.usable_gib for card in cards if card.usable_gib is not None]
    return Setup(min(sizes, default=None), card=cards[0] if cards else None)


def _batching(here: Here, setup: Setup) -> tuple[int, int]:
    return batching(read_geometry(here.model.config or {}), setup)


def make_space(text: str | None, here: Here) -> Space:
    """The space that `--parameters` means.

    Args:
        text: Names, with or without values; `None` for the guide's three, `all` for all there are.

    Raises:
        EngineError: a name or a value is none, or does not exist here (kind `parameters`).
    """
    there = available(here)
    defaults = {name: one.default for name, one in there.items()}
    if text is None or text.strip().lower() == "all":
        names = NAMES if text else USUAL
        return Space(tuple(there[name] for name in names if name in there), {}, defaults)
    searched: list[Parameter] = []
    fixed: Setting = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, values = part.partition("=")
        one = _named(name.strip(), there, bool(equals))
        if not equals:
            searched.append(one)
            continue
        choices = tuple(_value(one.name, word.strip()) for word in values.split("/"))
        if len(set(choices)) == 1:
            fixed[one.name] = choices[0]
        else:
            ordered = tuple(sorted(set(choices), key=_order))
            searched.append(Parameter(one.name, ordered, one.default))
    twice = len({one.name for one in searched} | fixed.keys()) < len(searched) + len(fixed)
    if twice:
        raise EngineError("parameters", f"a parameter is named twice in {text!r}", "name it once")
    if not searched:
        raise EngineError("parameters", f"nothing is left to search in {text!r}", _hint(there))
    return Space(tuple(searched), fixed, defaults)


def _order(value: Any) -> tuple[int, Any]:
    return (isinstance(value, str), value)


def _named(text: str, there: dict[str, Parameter], has_values: bool) -> Parameter:
    plain = text.lstrip("-").lower().replace("_", "-")
    spelled = {name.replace("_", "-"): name for name in NAMES}
    spelled |= {OPTIONS[name]: name for name in NAMES if name in OPTIONS}
    name = spelled.get(plain)
    if name is None:
        raise EngineError("parameters", f"{text!r} is nothing that can be tuned", _hint(there))
    if name in there:
        return there[name]
    if has_values and name != "memory_utilization":
        return Parameter(name, (), None)
    why = (
        "on a processor the KV cache has a size of its own"
        if name == "memory_utilization"
        else "there is only one value of it for this model on this machine"
    )
    raise EngineError("parameters", f"{plain} cannot be tuned here: {why}", _hint(there))


def _hint(there: dict[str, Parameter]) -> str:
    names = [OPTIONS.get(name, name).replace("_", "-") for name in NAMES if name in there]
    return f"choose among {', '.join(names)}; values by slashes: max-num-seqs=16/64"


_WORDS = {"on": True, "true": True, "off": False, "false": False}


def _value(name: str, word: str) -> Any:
    try:
        if name == "kv_cache_dtype" and re.fullmatch(r"[a-z0-9_]+", word):
            return word
        if name in ("chunked_prefill", "prefix_caching"):
            return _WORDS[word.lower()]
        number = float(word) if name == "memory_utilization" else int(word)
        if number > 0 and (name != "memory_utilization" or number <= 1):
            return number
    except (ValueError, KeyError):
        pass
    raise EngineError(
        "parameters",
        f"{word!r} is no value of {OPTIONS.get(name, name).replace('_', '-')}",
        "numbers by slashes, such as 16/64; on/off for switches",
    )
