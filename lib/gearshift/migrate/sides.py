"""The two servers of a comparison, and what each tells of a prompt besides its answer.

Ollama tells the tokens of a prompt with one question only (`context` of `/api/generate`), of other
chats their number. vLLM tells them all (`/tokenize`), and how likely it finds any text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gearshift.errors import ProtocolError, ProviderError
from gearshift.providers._wire import as_count
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.schemas import Message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rendered:
    """A prompt as a model gets it.

    Attributes:
        count: Its tokens.
        tokens: Their numbers; `None` where the server does not tell.
    """

    count: int | None
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Chance:
    """How likely vLLM finds a token, natural logarithms.

    Attributes:
        token: Its text.
        own: Of the token itself.
        most: Of the likeliest token in its place.
    """

    token: str
    own: float
    most: float

    @property
    def gap(self) -> float:
        """How much less likely it is than the likeliest one: 0 if it is that."""
        return self.most - self.own


async def continue_text(service: OllamaService, model: str, text: str) -> tuple[str, int | None]:
    """The likeliest next token after a text without any template, and the text's tokens.

    Raises:
        ProviderError: it does not say.
    """
    options = {"num_predict": 1, "temperature": 0, "seed": 0}
    payload = {"model": model, "prompt": text, "raw": True, "stream": False, "options": options}
    answer = await service.ask("/api/generate", payload, model)
    return str(answer.get("response", "")), as_count(answer.get("prompt_eval_count"))


async def in_ollama(
    service: OllamaService,
    model: str,
    messages: Sequence[Message],
    context: int | None = None,
    has_messages: bool = False,
) -> Rendered:
    """A chat as Ollama renders it, its template, SYSTEM and MESSAGE included.

    Args:
        context: Tokens that it is to make room for; `None` for its default.
        has_messages: The Modelfile has MESSAGEs, which `/api/generate` puts behind a system
            message and `/api/chat` in front of it.

    Raises:
        ProviderError: it does not say.
    """
    options = {"num_predict": 1} | ({"num_ctx": context} if context else {})
    asked = {"model": model, "stream": False, "options": options}
    rows = [message.as_dict() for message in messages]
    answer = await service.ask("/api/chat", asked | {"messages": rows}, model)
    count = as_count(answer.get("prompt_eval_count"))
    roles = [message.role for message in messages]
    if roles != ["user"] and (roles != ["system", "user"] or has_messages):
        return Rendered(count)
    question = {"prompt": messages[-1].content}
    if len(messages) == 2:
        question["system"] = messages[0].content
    told = await service.ask("/api/generate", asked | question, model)
    tokens, written = told.get("context"), as_count(told.get("eval_count"))
    if not isinstance(tokens, list) or count is None or written is None:
        return Rendered(count)
    if len(tokens) not in (count + written, count + written - 1):  # an end token is not told
        return Rendered(count)  # both interfaces render it otherwise: the chat's is what counts
    return Rendered(count, tuple(tokens[:count]))


async def in_vllm(service: VLLMService, model: str, messages: Sequence[Message]) -> Rendered:
    """A chat as vLLM renders it with its chat template.

    Raises:
        ProviderError: it does not say.
    """
    rows = [message.as_dict() for message in messages]
    answer = await service.ask("/tokenize", {"model": model, "messages": rows}, model)
    tokens = answer.get("tokens")
    if not isinstance(tokens, list):
        raise ProtocolError(
            f"{service.label} does not tell the tokens of a chat", hint="is it a vLLM server?"
        )
    return Rendered(len(tokens), tuple(tokens))


async def as_text(service: VLLMService, model: str, tokens: Sequence[int]) -> str:
    """The text that vLLM's tokenizer makes of tokens; their numbers where it does not tell."""
    try:
        told = await service.ask("/detokenize", {"model": model, "tokens": list(tokens)}, model)
    except ProviderError:
        return str(list(tokens))
    return str(told.get("prompt", list(tokens)))


async def chances(
    service: VLLMService, model: str, prompt: Sequence[int], answer: str
) -> list[Chance] | None:
    """How likely vLLM finds each token of an answer after a prompt; `None` if it does not tell."""
    payload: dict[str, Any] = {"model": model, "prompt": answer, "add_special_tokens": False}
    try:
        told = await service.ask("/tokenize", payload, model)
        tokens = told.get("tokens")
        if not isinstance(tokens, list) or not tokens:
            return None
        payload = {"model": model, "prompt": [*prompt, *tokens], "max_tokens": 1, "temperature": 0}
        scored = await service.ask("/v1/completions", payload | {"prompt_logprobs": 1}, model)
        rows = scored["choices"][0]["prompt_logprobs"][-len(tokens) :]
        return [_chance(row, token) for row, token in zip(rows, tokens, strict=True)]
    except (ProviderError, KeyError, IndexError, TypeError, ValueError) as why:
        log.info("%s did not tell how likely a text is: %r", service.label, why)
        return None


def _chance(row: dict[str, Any], token: int) -> Chance:
    own = row[str(token)]
    most = max(each["logprob"] for each in row.values())
    return Chance(str(own.get("decoded_token") or ""), own["logprob"], most)
