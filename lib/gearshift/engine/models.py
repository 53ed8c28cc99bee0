"""From what a person calls a model to what vLLM is given: a folder or a Hub id, and its shape."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gearshift.data import DATA
from gearshift.engine import geometry
from gearshift.errors import EngineError
from gearshift.providers import counterparts
from gearshift.settings import Settings, hub_cache

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


@dataclass(frozen=True)
class Model:
    """A model that a server is to be started with.

    Attributes:
        source: What vLLM is given: an absolute folder, or a Hub id.
        names: What clients may call it, the Hub id first, Ollama's names after it.
        folder: Where its files are, `None` when it would have to be downloaded.
        config: Its `config.json`, or the same keys from what we know of it; `None` if unknown.
        problem: Why it cannot be served, `None` if nothing speaks against it.
    """

    source: str
    names: tuple[str, ...]
    folder: Path | None = None
    config: dict[str, Any] | None = None
    problem: str | None = None

    @property
    def shapes(self) -> list[dict[str, Any]]:
        """Its config, and the text model's that a multi-modal one nests."""
        config = self.config or {}
        nested = config.get("text_config")
        return [config, nested] if isinstance(nested, dict) else [config]

    def number(self, key: str) -> int | None:
        """A number of its shape, `None` where that is not told."""
        for shape in self.shapes:
            value = shape.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return None


def find_model(name: str, settings: Settings) -> Model:
    """Looks in `VLLM_MODEL_PATH` first, then takes `name` as a folder, an Ollama name or a Hub id.

    Raises:
        EngineError: `name` is nothing that could be a model (kind `model`).
    """
    if not name.strip() or name.startswith("-") or re.search(r"[\x00-\x1f\x7f]", name):
        raise EngineError(
            "model", f"{name!r} is not a model", "give a Hub id, such as owner/name, or a folder"
        )
    if settings.vllm_model_path and not Path(name).is_absolute() and ".." not in Path(name).parts:
        root = Path(settings.vllm_model_path).expanduser()
        for below in (name, name.rpartition("/")[2]):
            if _is_folder(root / below):
                return _in_folder((root / below).absolute(), name)
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if name.startswith(("/", ".", "~")) or name.endswith("/") or _is_folder(path):
        return _in_folder(path.absolute(), name)
    ollama, hub = counterparts(name)
    if hub and name not in hub and "/" not in name:
        return _on_hub(hub[0], ollama)
    if not HUB_ID.fullmatch(name):
        raise EngineError(
            "model",
            f"{name!r} is neither a folder nor the name of a model",
            "give a Hub id, such as owner/name, or a folder that has a config.json",
        )
    return _on_hub(name, ollama)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _in_folder(folder: Path, name: str) -> Model:
    plain = name if HUB_ID.fullmatch(name) else re.sub(r"[^\w.-]+", "-", folder.name).strip("-")
    names = _names(plain or "model", counterparts(plain)[0])
    if not _is_folder(folder):
        return Model(str(folder), names, problem=f"there is no folder {folder}")
    config, problem = _read(folder / "config.json")
    if problem and list(folder.glob("*.gguf")):
        problem = f"{folder} holds a GGUF file, which vLLM does not serve as it is"
    return Model(str(folder), names, folder, config, problem)


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(kind), None) for kind in ("*.safetensors", "*.bin", "*.pt"))


def _read(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None, f"{path.parent} has no config.json, so it is not a model that vLLM can serve"
    except (OSError, ValueError, RecursionError) as wrong:
        return None, f"{path} cannot be read: {wrong}"
    if not isinstance(value, dict):
        return None, f"{path} is not a model's configuration"
    return value, None


def _names(name: str, ollama: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([name, *ollama]))


def _on_hub(name: str, ollama: tuple[str, ...]) -> Model:
    all_names = _names(name, ollama)
    for snapshot in (hub_cache() / f"models--{name.replace('/', '--')}").glob("snapshots/*"):
        config, _ = _read(snapshot / "config.json")
        if config is not None and _has_weights(snapshot):
            return Model(name, all_names, snapshot, config)
    return Model(name, all_names, None, known_shapes().get(name.lower()))


@lru_cache(maxsize=1)
def _shapes() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads((DATA / "model-shapes.json").read_text("utf-8"))
    return rows


def known_models() -> list[str]:
    """The Hub ids of the models whose shapes are known without the Hub."""
    return list(_shapes())


@lru_cache(maxsize=1)
def known_shapes() -> dict[str, dict[str, Any]]:
    """Shapes of models by their Hub ids in lower case, with the keys of a `config.json`."""
    return {name.lower(): shape for name, shape in _shapes().items()}


def legal_tensor_parallel(model: Model, up_to: int = 8) -> list[int] | None:
    """The numbers of GPUs that can share each layer of the model; `None` if that is not known.

    vLLM gives each rank the same number of attention heads, and either the same number of KV heads
    or one that several ranks hold a copy of.
    """
    with suppress(EngineError):
        return geometry.legal_tensor_parallel(geometry.read_geometry(model.config or {}), up_to)
    heads = model.number("num_attention_heads")  # of a config that does not tell all the rest
    if heads is None:
        return None
    kv_heads = model.number("num_key_value_heads") or heads
    return [size for size in range(1, up_to + 1) if geometry.shares(heads, kv_heads, size)]
