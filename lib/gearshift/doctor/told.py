"""What a log tells of the server that wrote it: its model and its options."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearshift.engine.geometry import Geometry, read_geometry
from gearshift.engine.models import known_shapes
from gearshift.errors import EngineError

_ARGUMENTS = re.compile(r"non-default args: (\{.*\})")
_COMMAND = re.compile(r"(?:vllm serve|vllm\.entrypoints\.\S+)[^\n`]*")
_MODEL = re.compile(r"\bmodel(?:_tag)?=['\"]([^'\"\s]+)['\"]")
_RANKS = re.compile(r"\btensor_parallel_size=(\d+)|[\s(]-?-?tp(?:[ =]|_size=)?(\d+)\b", re.I)
_OURS = ("model", "model_tag")
_SHORT = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "q": "quantization"}


@dataclass(frozen=True)
class Told:
    """What is known of a start; options by their names with underscores."""

    model: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> int | None:
        """How many share each layer, if that is told."""
        return self.number("tensor_parallel_size")

    def number(self, option: str) -> int | None:
        """The value of an option that is a small number, if it is told."""
        value = self.options.get(option, "")
        return int(value) if re.fullmatch(r"[0-9]{1,5}", value) else None

    @property
    def shape(self) -> Geometry | None:
        """The model's shape, if it is one that we know."""
        if self.model is None:
            return None
        try:
            config = json.loads((Path(self.model) / "config.json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            config = _known(self.model.lower())
        try:
            return read_geometry(config) if isinstance(config, dict) else None
        except EngineError:
            return None


def _known(model: str) -> dict[str, Any] | None:
    """The shape of a model that we know, or of the one that it was quantized from."""
    known = known_shapes()
    if model in known:
        return known[model]
    original = known.get(re.sub(r"-(?:awq|gptq(?:-int[48])?|int4|w4a16|4bit)$", "", model))
    group = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    return {**original, "quantization_config": group} if original else None


def read_told(text: str) -> Told:
    """Looks for vLLM's own line of its arguments, else for a command; the last of them holds."""
    found: dict[str, str] = {}
    if lines := _ARGUMENTS.findall(text):
        try:
            values = ast.literal_eval(lines[-1])
        except (ValueError, SyntaxError):
            values = {}
        found = {str(key): str(value) for key, value in values.items() if _plain(value)}
    elif commands := _COMMAND.findall(text):
        found = _options(commands[-1])
    names = _MODEL.findall(text)
    model = found.get("model_tag") or found.get("model") or (names[-1] if names else None)
    options = {key: value for key, value in found.items() if key not in _OURS}
    if "tensor_parallel_size" not in options and (ranks := _RANKS.findall(text)):
        options["tensor_parallel_size"] = "".join(ranks[-1])
    return Told(model, options)


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float))


def _options(command: str) -> dict[str, str]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    found: dict[str, str] = {}
    name = ""
    for word in words[1:]:
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            name = _SHORT.get(name, name)
            found[name] = value or "True"
            if value:
                name = ""
        elif name:
            found[name], name = word, ""
        elif word != "serve" and re.fullmatch(r"[\w./:-]+", word):
            found.setdefault("model", word)
    return found
