"""Which parsers of vLLM 0.32 understand how a family of models writes tool calls and thoughts."""

from __future__ import annotations

import re
from typing import NamedTuple


class Parsers(NamedTuple):
    """Names for `--tool-call-parser` and `--reasoning-parser`; `None` if there is none."""

    tool: str | None
    reasoning: str | None


# The first pattern that is found in the model's name decides, so the special comes first.
_FAMILIES = [
    (r"deepseek-r1|r1-distill", Parsers(None, "deepseek_r1")),
    (r"deepseek-v3\.1", Parsers("deepseek_v31", "deepseek_v3")),
    (r"deepseek-v3\.2", Parsers("deepseek_v32", "deepseek_v3")),
    (r"deepseek-v3", Parsers("deepseek_v3", None)),
    (r"gpt-oss", Parsers("openai", "openai_gptoss")),
    (r"qwq", Parsers("hermes", "deepseek_r1")),
    (r"qwen3-coder", Parsers("qwen3_coder", None)),
    (r"qwen3.*instruct", Parsers("hermes", None)),
    (r"qwen-?3\.[5-9]", Parsers("qwen3_coder", "qwen3")),
    (r"qwen-?3", Parsers("hermes", "qwen3")),
    (r"qwen-?2|hermes", Parsers("hermes", None)),
    (r"magistral", Parsers("mistral", "mistral")),
    (r"mistral|mixtral|ministral|devstral", Parsers("mistral", None)),
    (r"llama-?4", Parsers("llama4_pythonic", None)),
    (r"llama-?3", Parsers("llama3_json", None)),
    (r"phi-?4-mini", Parsers("phi4_mini_json", None)),
    (r"gemma-?4", Parsers("gemma4", "gemma4")),
    (r"granite-?4", Parsers("granite4", None)),
    (r"granite-?3", Parsers("granite", "granite")),
    (r"glm-?4\.[5-9]", Parsers("glm45", "glm45")),
    (r"kimi-k2", Parsers("kimi_k2", "kimi_k2")),
    (r"seed-oss", Parsers("seed_oss", "seed_oss")),
    (r"hunyuan-a13b", Parsers("hunyuan_a13b", "hunyuan_a13b")),
]


def parsers(model: str) -> Parsers:
    """The parsers for a model by its name; embedding models and unknown families have none."""
    name = model.rpartition("/")[2].lower()
    if re.search(r"embed|rerank", name):
        return Parsers(None, None)
    for pattern, found in _FAMILIES:
        if re.search(pattern, name):
            return found
    return Parsers(None, None)
