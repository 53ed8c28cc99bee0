"""Both servers side by side: the same prompts, token by token, and the same answers.

Everything is asked at temperature 0 without a repetition penalty: the servers look at different
spans of text for that, and would differ for this alone. Answers that differ are judged by how
likely vLLM finds each token of Ollama's: where it is nearly as likely as vLLM's own choice, the
arithmetic of 4-bit weights decides between the two, and not the prompt.

What it does not know: which of two different answers is the better one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gearshift.errors import ProviderError
from gearshift.migrate.questions import Question
from gearshift.migrate.sides import Chance, Rendered, as_text, chances, in_ollama, in_vllm
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.rag.citations import Citer
from gearshift.rag.embedders import Embedder
from gearshift.schemas import FinishReason

NEAR = 0.7
"""Natural logarithm: a token with half of the likeliest one's chance, or more, is nearly chosen."""
_USUAL_CONTEXT = 4096  # tokens; of Ollama 0.9 where nobody says
_AROUND = 8  # tokens that are shown of a difference
_REFUSES = re.compile(
    r"\b(?:(?:do(?:es)?|did|is|are|can|could)(?: not|n't)|cannot|no) (?:\w+ ){0,3}?"
    r"(?:answer|know|contain|mention|say|information|help|provide|assist|sure)\b|\bunable to\b|"
    r"\bI(?:'m| am) sorry\b",
    re.IGNORECASE,
)


class Alike(StrEnum):
    """How like each other two answers are."""

    SAME = "same"  # to the letter
    NEAR = "near"  # 4-bit arithmetic explains the difference
    DIFFERENT = "different"
    UNKNOWN = "unknown"  # a server gave no whole answer


@dataclass(frozen=True)
class Answered:
    """What one server made of a question; `error` if it gave no whole answer."""

    text: str = ""
    tokens: int | None = None
    finish_reason: FinishReason | None = None
    citations: tuple[int, ...] = ()
    refuses: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Pair:
    """One question on both servers.

    Attributes:
        same_prompt: Whether both prompts are the same, token by token; `None` if that is not known.
        compared: `tokens`, or `count` where Ollama tells no more than that.
        difference: Where the prompts part, in words.
        alike: How like the answers are.
        widest_gap: How much less likely vLLM finds a token of Ollama's answer than its own choice
            in that place, at most, as a natural logarithm; `None` if it did not tell, or the
            answers are the same.
        meaning: Cosine of the answers' vectors, 1 for the same meaning.
    """

    question: Question
    prompts: tuple[Rendered, Rendered]
    answers: tuple[Answered, Answered]
    same_prompt: bool | None
    compared: str
    difference: str | None
    alike: Alike
    widest_gap: float | None
    meaning: float | None


@dataclass(frozen=True)
class Sides:
    """The two servers, and what each calls the model.

    Attributes:
        stop: The Modelfile's stop texts, which vLLM has to be told.
        has_messages: The Modelfile begins each chat with MESSAGEs.
    """

    ollama: OllamaService
    ollama_model: str
    vllm: VLLMService
    vllm_model: str
    stop: tuple[str, ...] = ()
    has_messages: bool = False


async def compare(
    questions: Sequence[Question],
    sides: Sides,
    embedder: Embedder,
    max_tokens: int,
    on_pair: Callable[[Pair], None],
) -> list[Pair]:
    """Asks both servers each question; one question after the other, both servers at once.

    Args:
        embedder: Compares meanings, and matches citations.
        on_pair: Told of each pair when it is there.

    Raises:
        ProviderError: a server cannot be asked at all. Once there is a pair, what fails is part of
            the result.
    """
    pairs: list[Pair] = []
    for question in questions:
        try:
            pair = await _pair(question, sides, embedder, max_tokens)
        except ProviderError as error:
            if not pairs:
                raise
            pair = _failed(question, error)
        pairs.append(pair)
        on_pair(pair)
    return pairs


def _failed(question: Question, error: ProviderError) -> Pair:
    nothing, answer = Rendered(None), Answered(error=error.message)
    return Pair(
        question, (nothing, nothing), (answer, answer), None, "count", None, Alike.UNKNOWN, None,
        None,
    )  # fmt: skip


async def _pair(question: Question, sides: Sides, embedder: Embedder, max_tokens: int) -> Pair:
    vllm = await in_vllm(sides.vllm, sides.vllm_model, question.messages)
    context = _context((vllm.count or 0) + max_tokens)
    ollama = await in_ollama(
        sides.ollama, sides.ollama_model, question.messages, context, sides.has_messages
    )
    same, compared = _same(ollama, vllm)
    theirs, ours = await asyncio.gather(
        _answer(sides.ollama, sides.ollama_model, question, max_tokens, embedder, (), context),
        _answer(sides.vllm, sides.vllm_model, question, max_tokens, embedder, sides.stop),
    )
    alike, gap, meaning = Alike.UNKNOWN, None, None
    if theirs.error is None and ours.error is None:
        alike = Alike.SAME if theirs.text.strip() == ours.text.strip() else Alike.DIFFERENT
        meaning = await asyncio.to_thread(_cosine, embedder, (theirs, ours))
    if alike is Alike.DIFFERENT and vllm.tokens is not None:
        found = await chances(sides.vllm, sides.vllm_model, vllm.tokens, theirs.text)
        gap = _widest(found) if found else None
        if gap is not None and gap <= NEAR:
            alike = Alike.NEAR
    difference = await _difference(ollama, vllm, sides) if same is False else None
    return Pair(
        question, (ollama, vllm), (theirs, ours), same, compared, difference, alike, gap, meaning
    )


def _context(tokens: int) -> int | None:
    """What Ollama has to be told so that it cuts nothing off; `None` where its default will do."""
    return None if tokens <= _USUAL_CONTEXT else -(-tokens // 1024) * 1024


async def _answer(
    service: OllamaService | VLLMService,
    model: str,
    question: Question,
    max_tokens: int,
    embedder: Embedder,
    stop: Sequence[str],
    context: int | None = None,
) -> Answered:
    try:
        made = await service.generate(
            model=model,
            messages=question.messages,
            temperature=0.0,
            seed=0,
            max_tokens=max_tokens,
            repetition_penalty=1.0,
            stop=stop,
            context_length=context,
        )
    except ProviderError as error:
        return Answered(error=error.message)
    sources = {source.number: source for source in question.sources}
    cited, _ = await asyncio.to_thread(Citer(embedder).cite, made.text, sources)
    return Answered(
        made.text,
        made.usage.completion_tokens,
        made.finish_reason,
        tuple(sorted({citation.number for citation in cited})),
        bool(_REFUSES.search(made.text)),
    )


def _same(ollama: Rendered, vllm: Rendered) -> tuple[bool | None, str]:
    """Whether the prompts are the same; as many tokens are no proof, but fewer or more are one."""
    if ollama.tokens is not None and vllm.tokens is not None:
        return ollama.tokens == vllm.tokens, "tokens"
    if ollama.count is None or vllm.count is None or ollama.count == vllm.count:
        return None, "count"
    return False, "count"


async def _difference(ollama: Rendered, vllm: Rendered, sides: Sides) -> str:
    words = f"{ollama.count} tokens in Ollama, {vllm.count} in vLLM"
    if ollama.tokens is None or vllm.tokens is None:
        return words
    pairs = zip(ollama.tokens, vllm.tokens, strict=False)
    shared = next(
        (n for n, (one, other) in enumerate(pairs) if one != other),
        min(len(ollama.tokens), len(vllm.tokens)),
    )
    before, theirs, ours = [
        await as_text(sides.vllm, sides.vllm_model, tokens)
        for tokens in (
            vllm.tokens[max(0, shared - _AROUND) : shared],
            ollama.tokens[shared : shared + _AROUND],
            vllm.tokens[shared : shared + _AROUND],
        )
    ]
    return (
        f"{words}; the first {shared} are the same; then, after {before!r}, Ollama has {theirs!r} "
        f"and vLLM {ours!r}"
    )


def _widest(found: Sequence[Chance]) -> float:
    """The widest gap of a token to the likeliest one in its place."""
    return max(chance.gap for chance in found)


def _cosine(embedder: Embedder, answers: Sequence[Answered]) -> float:
    one, other = embedder.embed([answer.text or " " for answer in answers])
    return float(np.dot(one, other))
