"""One turn of a cited chat: search, prompt, stream with fallback, citations, record.

`write_answer` fills an `Answer` in while it is written, so that a page can look at it at any time.
It runs on the background loop; what computes (search, citations) runs in threads beside it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gearshift.errors import ContextExceeded, GearshiftError
from gearshift.providers import BaseLLMService, Fallback, Started
from gearshift.providers._models import LEAST_CONTEXT, choose_model
from gearshift.rag.citations import Citer
from gearshift.rag.conversations import Conversation
from gearshift.rag.extract import candidates
from gearshift.rag.prompt import Prompt, build, estimate
from gearshift.schemas import (
    Answer,
    Chunk,
    Dropped,
    GenerationRequest,
    Hit,
    SamplingParams,
    Source,
    State,
    Timings,
)

log = logging.getLogger(__name__)

PASSAGES = 5
"""Passages that a search finds; a provider may use fewer."""
TEMPERATURE = 0.2
"""Low, since an answer shall say what the sources say."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a person asks, and of whom.

    Args:
        search: Finds passages for a query; `None` for a chat without documents.
        citer: Ties sentences to sources; `None` where there is no search.
        model: The model that the person chose; with `insist` it is taken as it is written.
        max_tokens: The longest answer; `None` for the default.
    """

    question: str
    services: Sequence[BaseLLMService]
    search: Callable[[str, int], list[Hit]] | None = None
    citer: Citer | None = None
    model: str | None = None
    insist: bool = False
    max_tokens: int | None = None


def begin(conversation: Conversation, question: str) -> Answer:
    """Appends a turn to the conversation, to be filled in by `write_answer`."""
    answer = Answer(question, Timings(time.monotonic()))
    conversation.turns.append(answer)
    return answer


async def write_answer(
    ask: Ask, conversation: Conversation, on_text: Callable[[str], None] = lambda text: None
) -> Answer:
    """Fills in the conversation's last turn; whatever happens, its `state` says how it ended.

    `on_text` is called with each piece of the answer, on the background loop.
    """
    answer = conversation.turns[-1]
    try:
        hits = await asyncio.to_thread(_retrieve, ask, conversation.turns[:-1])
        answer.timings.retrieved = time.monotonic()
        count = len(hits or [])
        log.info("Sending message with %d sources", count)
        answer.state = State.WAITING
        try:
            await _stream(ask, conversation, hits, answer, on_text, share=1.0)
        except ContextExceeded:
            if answer.text or answer.reasoning:
                raise
            # The server counts otherwise than we estimated: once more with half of the room.
            await _stream(ask, conversation, hits, answer, on_text, share=0.5)
        answer.timings.ended = time.monotonic()
        _notice_silent_cut(answer, conversation)
        if ask.citer is not None:
            found = await asyncio.to_thread(
                ask.citer.cite, answer.text, known_sources(conversation)
            )
            answer.citations, answer.unsupported = found
        answer.state = State.DONE
        log.info(
            "Message processed for user: %d chars, %d sources",
            len(answer.text),
            len(answer.sources),
        )
    except asyncio.CancelledError:
        answer.state = State.STOPPED
        raise
    except GearshiftError as error:
        answer.error = error.as_dict() | {"partial": answer.text}
        answer.state = State.FAILED
        log.warning("no whole answer from %s: %s", answer.provider or "any provider", error)
    except Exception as bug:
        log.exception("unexpected")
        unexpected = GearshiftError(
            f"unexpected {type(bug).__name__}: {bug}", hint="ask again; please report it"
        )
        answer.error = unexpected.as_dict() | {"partial": answer.text}
        answer.state = State.FAILED
    finally:
        answer.timings.ended = answer.timings.ended or time.monotonic()
    return answer


def _retrieve(ask: Ask, earlier: Sequence[Answer]) -> list[Hit] | None:
    """The best passages; a follow-up ("and how do I go back?") is searched with what it follows.

    The two searches are merged by turns: no model has to be asked first.
    """
    if ask.search is None:
        return None
    lists = [ask.search(query, PASSAGES) for query in _queries(ask.question, earlier)]
    best: dict[str, Hit] = {}
    for rank in range(PASSAGES):
        for hits in lists:
            if rank < len(hits):
                best.setdefault(hits[rank].passage.id, hits[rank])
    return list(best.values())[:PASSAGES]


def _queries(question: str, earlier: Sequence[Answer]) -> list[str]:
    """The question, and where there was one before, the question behind it."""
    return [question, *(f"{turn.question} {question}" for turn in earlier[-1:])]


def _notice_silent_cut(answer: Answer, conversation: Conversation) -> None:
    """Some servers drop the beginning of a long prompt without a word: then they count too few."""
    earlier = [t for t in conversation.turns[conversation.first_turn : -1] if t.complete]
    sent = [answer.prompt, *(part for turn in earlier for part in (turn.prompt, turn.text))]
    least = sum(len(part.split()) for part in sent)  # a word is a token at least
    counted = answer.usage.prompt_tokens
    # What remains after a cut fills a context: a count below the smallest is just a wrong count.
    if counted is not None and LEAST_CONTEXT <= counted < 0.8 * least:
        what = f"the server read {counted} of at least {least} tokens"
        answer.dropped = [*answer.dropped, Dropped("prompt", what)]


def known_sources(conversation: Conversation) -> dict[int, Source]:
    """The passages that the conversation's numbers stand for."""
    return {source.number: source for turn in conversation.turns for source in turn.sources}


async def _stream(
    ask: Ask,
    conversation: Conversation,
    hits: list[Hit] | None,
    answer: Answer,
    on_text: Callable[[str], None],
    share: float,
) -> None:
    """Streams from the first provider that answers; `share` of the model's room is used."""
    made: dict[str, Prompt] = {}

    async def prepare(service: BaseLLMService) -> GenerationRequest:
        chosen = await choose_model(service, ask.model, ask.insist and service is ask.services[0])
        longest = ask.max_tokens or service.answer_tokens
        reserved = min(longest, chosen.context_length // 4)
        room = int((chosen.context_length - reserved) * share)
        prompt = build(
            answer.question,
            hits,
            conversation.turns[:-1],
            conversation.first_turn,
            room,
            service.passages,
        )
        made[service.name] = prompt
        used = sum(estimate(message.content) for message in prompt.messages)
        sampling = SamplingParams(
            temperature=TEMPERATURE,
            max_tokens=min(longest, max(reserved, chosen.context_length - used)),
        )
        choices: list[str] = []
        if ask.citer is not None and prompt.sources and not service.writes:
            queries = _queries(ask.question, conversation.turns[:-1])
            choices = await asyncio.to_thread(
                candidates, queries, prompt.sources, ask.citer.embedder
            )
        return GenerationRequest(
            prompt.messages, chosen.name, sampling, chosen.context_length, choices
        )

    async for piece in Fallback(ask.services, prepare, ask.insist).stream():
        if isinstance(piece, Started):
            _record_start(answer, conversation, piece, made[piece.service.name])
        else:
            _record_chunk(answer, piece, on_text)


def _record_start(
    answer: Answer, conversation: Conversation, started: Started, prompt: Prompt
) -> None:
    answer.provider = started.service.name
    answer.model = started.request.model
    answer.fallback_from = started.fallback_from
    answer.skipped = {failure.provider: failure.error.message for failure in started.failures}
    answer.prompt = started.request.messages[-1].content
    answer.sources = prompt.sources
    answer.dropped = prompt.dropped
    conversation.first_turn = prompt.first_turn
    answer.state = State.ANSWERING


def _record_chunk(answer: Answer, chunk: Chunk, on_text: Callable[[str], None]) -> None:
    if answer.timings.first_token is None and (chunk.text or chunk.reasoning):
        answer.timings.first_token = time.monotonic()
    answer.text += chunk.text
    answer.reasoning += chunk.reasoning
    if chunk.text:
        on_text(chunk.text)
    if chunk.finish_reason is not None:
        answer.finish_reason = chunk.finish_reason
    if chunk.usage is not None:
        answer.usage = chunk.usage
