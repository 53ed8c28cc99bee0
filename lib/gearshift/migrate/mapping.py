"""What becomes of each line of a Modelfile on vLLM, and what of what it leaves to Ollama."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gearshift.migrate.modelfile import Modelfile
from gearshift.migrate.parameters import why_not


class Where(StrEnum):
    """Where a parameter goes."""

    SERVER = "server"  # an option of `vllm serve`
    REQUEST = "request"  # a field of each request
    TEMPLATE = "template"  # the prompt
    NOWHERE = "none"  # vLLM has nothing like it


@dataclass(frozen=True)
class Fate:
    """What becomes of a parameter or an instruction.

    Attributes:
        becomes: The option of `vllm serve` or the field of a request; `None` if there is none.
        gives: The value that it gets there.
        note: What is different, or why there is no counterpart.
    """

    parameter: str
    value: str
    becomes: str | None
    where: Where
    gives: Any = None
    note: str = ""


OLLAMA_DEFAULTS: dict[str, float | int] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
}
"""What Ollama 0.9 samples with where nobody says; vLLM takes the model's `generation_config.json`,
or 1.0, all tokens, 1.0 and 1.0."""

_NOTHING = {
    "repeat_last_n": "vLLM's repetition penalty looks at the whole prompt and answer",
    "num_keep": "vLLM never shifts a context: a prompt that is too long is refused",
    "num_gpu": "vLLM keeps all layers on the GPU; what does not fit is refused when it starts "
    "(the nearest to layers on the processor is --cpu-offload-gb)",
    "main_gpu": "GPUs are chosen for the whole server: gearshift serve --gpus",
    "num_thread": "it is for answers on the processor; on a GPU nothing depends on it",
    "num_batch": "vLLM schedules tokens of all requests together (--max-num-batched-tokens), and "
    "chooses well by itself",
    "use_mmap": "how weights are read does not change answers; vLLM reads safetensors",
    "use_mlock": "weights lie in the GPU's memory",
    "low_vram": "Ollama ignores it too; the nearest is --gpu-memory-utilization",
    "f16_kv": "Ollama ignores it too; the nearest is --kv-cache-dtype",
    "logits_all": "Ollama ignores it too",
    "vocab_only": "Ollama ignores it too",
    "numa": "Ollama has dropped it; on a processor vLLM binds its threads by itself",
    "penalize_newline": "Ollama ignores it too",
    "typical_p": "vLLM has no typical sampling; top_p and min_p are the nearest",
    "tfs_z": "vLLM has no tail-free sampling, and Ollama has dropped it",
    "mirostat": "vLLM has no Mirostat, and newer versions of Ollama ignore it",
    "mirostat_tau": "it belongs to mirostat",
    "mirostat_eta": "it belongs to mirostat",
    "keep_alive": "a vLLM server keeps its model until it is stopped",
}


def fate(name: str, value: str, context: int | None = None) -> Fate:
    """What becomes of a parameter.

    Args:
        context: The longest context of the model itself, in tokens, if it is known.
    """
    if name in _NOTHING:
        return Fate(name, value, None, Where.NOWHERE, None, _NOTHING[name])
    if problem := why_not(name, value):
        return Fate(name, value, None, Where.NOWHERE, None, f"Ollama rejects it: {problem}")
    if name == "num_ctx":
        return _context(value, context)
    becomes, translate = _REQUESTS[name]
    gives, note = translate(value)
    where = Where.NOWHERE if gives is None else Where.REQUEST
    return Fate(name, value, None if gives is None else becomes, where, gives, note)


def _context(value: str, longest: int | None) -> Fate:
    length = int(value)
    becomes, where = "--max-model-len", Where.SERVER
    if length <= 0:
        note = "Ollama takes its default then; vLLM the model's own length"
        return Fate("num_ctx", value, None, Where.NOWHERE, None, note)
    note = "Ollama drops the beginning of what is longer, vLLM refuses the request"
    if longest is not None and length > longest:
        note = f"the model itself is made for {longest:,} tokens, and vLLM takes no more"
        return Fate("num_ctx", value, becomes, where, longest, note)
    return Fate("num_ctx", value, becomes, where, length, note)


def _predict(value: str) -> tuple[Any, str]:
    if int(value) > 0:
        return int(value), ""
    if int(value) == 0:
        return None, "vLLM answers with one token at least"
    return None, "no limit, as in vLLM where max_tokens is left out"


def _seed(value: str) -> tuple[Any, str]:
    if int(value) == -1:
        return None, "it means another seed for each request, as in vLLM where seed is left out"
    return int(value), "the same seed gives other words: the two draw differently"


def _stop(value: str) -> tuple[Any, str]:
    if not value:
        return None, "vLLM refuses an empty stop text"
    return value, (
        "vLLM looks for it in the text of the answer; a special token of the model is not in it, "
        "and ends the answer by itself where the model's configuration says so"
    )


def _top_k(value: str) -> tuple[Any, str]:
    return (int(value), "") if int(value) > 0 else (-1, "all tokens: -1 in vLLM")


def _between(low: float, high: float) -> Callable[[str], tuple[Any, str]]:
    def translate(value: str) -> tuple[Any, str]:
        number = _number(value)
        kept = min(high, max(low, number))
        return kept, "" if kept == number else f"vLLM takes {low:g} to {high:g}"

    return translate


def _top_p(value: str) -> tuple[Any, str]:
    number = _number(value)
    if number <= 0:
        return 1e-6, "vLLM takes no 0: with this the likeliest token is taken, too"
    return min(number, 1.0), "" if number <= 1 else "vLLM takes 1 at most, which is all tokens"


def _repetition(value: str) -> tuple[Any, str]:
    number = _number(value)
    if number <= 0:
        return None, "vLLM takes penalties above 0"
    return number, "Ollama looks at the last repeat_last_n (64) tokens, vLLM at all of them"


def _number(value: str) -> float:
    plain = value.replace("_", "")
    return float.fromhex(plain) if "x" in plain.lower() else float(plain)


_REQUESTS: dict[str, tuple[str, Callable[[str], tuple[Any, str]]]] = {
    "num_predict": ("max_tokens", _predict),
    "repeat_penalty": ("repetition_penalty", _repetition),
    "temperature": ("temperature", _between(0.0, 2.0)),
    "top_k": ("top_k", _top_k),
    "top_p": ("top_p", _top_p),
    "min_p": ("min_p", _between(0.0, 1.0)),
    "presence_penalty": ("presence_penalty", _between(-2.0, 2.0)),
    "frequency_penalty": ("frequency_penalty", _between(-2.0, 2.0)),
    "seed": ("seed", _seed),
    "stop": ("stop", _stop),
}


def fates(modelfile: Modelfile, context: int | None = None) -> list[Fate]:
    """What becomes of every line of a Modelfile, in its order; FROM and LICENSE aside."""
    found = []
    for command in modelfile.commands:
        if command.parameter:
            found.append(fate(command.name, command.value, context))
        elif command.name in _INSTRUCTIONS:
            becomes, where, note = _INSTRUCTIONS[command.name]
            name = command.name.upper()
            found.append(Fate(name, command.value, becomes, where, None, note))
    return _last_counts(found)


_INSTRUCTIONS: dict[str, tuple[str | None, Where, str]] = {
    "system": (
        "--chat-template",
        Where.TEMPLATE,
        "the first message of a chat that has none of its own",
    ),
    "message": ("--chat-template", Where.TEMPLATE, "each chat begins with it"),
    "template": (
        "--chat-template",
        Where.TEMPLATE,
        "the model's own template has to give the same tokens, or a translation of this one",
    ),
    "adapter": (
        "--lora-modules",
        Where.SERVER,
        "vLLM takes adapters as safetensors in the form of PEFT, not as GGUF",
    ),
    "draft": ("--speculative-config", Where.SERVER, "vLLM takes drafts as safetensors"),
    "renderer": (None, Where.NOWHERE, "it is built into Ollama; vLLM has the model's template"),
    "parser": ("--tool-call-parser", Where.SERVER, "gearshift serve --tools chooses vLLM's"),
    "requires": (None, Where.NOWHERE, "it is about Ollama's version"),
}
_REPEATED = ("stop", "MESSAGE", "ADAPTER", "DRAFT")


def _last_counts(found: list[Fate]) -> list[Fate]:
    """Of what stands several times, the last counts; the others say so."""
    last = {each.parameter: number for number, each in enumerate(found)}
    return [
        each
        if each.parameter in _REPEATED or last[each.parameter] == number
        else Fate(
            each.parameter, each.value, None, Where.NOWHERE, None, "a later line overrides it"
        )
        for number, each in enumerate(found)
    ]


def request_defaults(found: list[Fate]) -> dict[str, Any]:
    """The fields that requests have to carry for answers like Ollama's, its defaults included."""
    fields: dict[str, Any] = dict(OLLAMA_DEFAULTS)
    for each in found:
        if each.where is not Where.REQUEST or each.becomes is None:
            continue
        if each.becomes in ("stop", "messages"):
            fields.setdefault(each.becomes, []).append(each.gives)
        else:
            fields[each.becomes] = each.gives
    last = [e for e in found if e.parameter == "repeat_penalty"][-1:]
    if last and last[0].gives is None:  # what Ollama does with it is nothing that vLLM could do
        del fields["repetition_penalty"]
    if any(e.parameter == "repeat_last_n" and e.value == "0" for e in found):
        fields["repetition_penalty"] = 1.0  # Ollama looks at no token at all
    return fields
