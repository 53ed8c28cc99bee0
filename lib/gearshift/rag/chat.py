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
from typing import Protocol

from gearshift.errors import ContextExceeded, GearshiftError, Truncated, unexpected
from gearshift.providers import BaseLLMService, Fallback, Started
from gearshift.providers._models import LEAST_CONTEXT, choose_model
from gearshift.rag.citations import Citer, written_citations
from gearshift.rag.conversations import Conversation
from gearshift.rag.embedders import Embedder
from gearshift.rag.extract import candidates
from gearshift.rag.prompt import Prompt, build, estimate
from gearshift.schemas import (
    Answer,
    Chunk,
    Dropped,
    FinishReason,
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
_CITING = 20.0  # seconds that comparing sentences with sources may take


class Documents(Protocol):
    """What can be searched: a `Collection`."""

    @property
    def embedder(self) -> Embedder: ...

    def search(self, query: str, k: int) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What a person asks, and of whom.

    Args:
        documents: Opens what is searched, in a thread, since that may wait for the provider that
            embeds; `None` for a chat without documents.
        model: The model that the person chose; with `insist` it is taken as it is written.
        max_tokens: The longest answer; `None` for the default.
    """

    question: str
    services: Sequence[BaseLLMService]
    documents: Callable[[], Documents] | None = None
    model: str | None = None
    insist: bool = False
    max_tokens: int | None = None


def begin(conversation: Conversation, question: str) -> Answer:
    """Appends a turn to the conversation, to be filled in by `write_answer`."""
    # A terminal can hand over halves of characters, which no server takes.
    question = question.encode("utf-8", "replace").decode()
    answer = Answer(question, Timings(time.monotonic()))
    conversation.turns.append(answer)
    return answer


async def write_answer(
    ask: Ask,
    conversation: Conversation,
    answer: Answer,
    on_text: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Fills `answer` in, a turn from `begin`; whatever happens, its `state` says how it ended.

    `on_text` is called with each piece of the answer, on the background loop.
    """
    turn = _Turn(ask, conversation, answer, on_text)
    try:
        turn.hits = await asyncio.to_thread(turn.retrieve)
        answer.timings.retrieved = time.monotonic()
        log.info("Sending message with %d sources", len(turn.hits or []))
        answer.state = State.WAITING
        try:
            await turn.stream(share=1.0)
        except ContextExceeded:
            if answer.text or answer.reasoning:
                raise
            # The server counts otherwise than we estimated: once more with half of the room.
            await turn.stream(share=0.5)
        answer.timings.ended = time.monotonic()
        if answer.finish_reason in (FinishReason.CONTENT_FILTER, FinishReason.TOOL_CALLS):
            raise Truncated(
                f"the model gave no whole answer ({answer.finish_reason})",
                hint="ask otherwise, or another model",
            )
        turn.notice_silent_cut()
        await turn.cite()
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
        told = unexpected(bug, hint="ask again; please report it")
        answer.error = told.as_dict() | {"partial": answer.text}
        answer.state = State.FAILED
    finally:
        answer.timings.ended = answer.timings.ended or time.monotonic()
    return answer


def known_sources(conversation: Conversation) -> dict[int, Source]:
    """The passages that the conversation's numbers stand for."""
    return {source.number: source for turn in conversation.turns for source in turn.sources}


@dataclass(slots=True)
class _Turn:
    """What the steps of one turn hand to each other."""

    ask: Ask
    conversation: Conversation
    answer: Answer
    on_text: Callable[[str], None]
    documents: Documents | None = None
    hits: list[Hit] | None = None

    @property
    def earlier(self) -> list[Answer]:
        """The turns before this one."""
        turns = self.conversation.turns
        return turns[: next(i for i, turn in enumerate(turns) if turn is self.answer)]

    @property
    def queries(self) -> list[str]:
        """The question, and where there was one before, the question behind it."""
        question = self.answer.question
        return [question, *(f"{turn.question} {question}" for turn in self.earlier[-1:])]

    def retrieve(self) -> list[Hit] | None:
        """The best passages; a follow-up ("how do I go back?") is searched with what it follows.

        The two searches are merged by turns: no model has to be asked first.
        """
        if self.ask.documents is None:
            return None
        self.documents = self.ask.documents()
        lists = [self.documents.search(query, PASSAGES) for query in self.queries]
        best: dict[str, Hit] = {}
        for rank in range(PASSAGES):
            for hits in lists:
                if rank < len(hits):
                    best.setdefault(hits[rank].passage.id, hits[rank])
        return list(best.values())[:PASSAGES]

    async def stream(self, share: float) -> None:
        """Streams from the first provider that answers; `share` of the model's room is used."""
        ask, answer = self.ask, self.answer
        made: dict[str, Prompt] = {}

        async def prepare(service: BaseLLMService) -> GenerationRequest:
            insist = ask.insist and service is ask.services[0]
            chosen = await choose_model(service, ask.model, insist)
            longest = ask.max_tokens or service.answer_tokens
            reserved = min(longest, chosen.context_length // 4)
            prompt = made[service.name] = build(
                answer.question,
                self.hits,
                self.earlier,
                self.conversation.first_turn,
                int((chosen.context_length - reserved) * share),
                service.passages,
            )
            used = sum(estimate(message.content) for message in prompt.messages)
            sampling = SamplingParams(
                temperature=TEMPERATURE,
                max_tokens=min(longest, max(reserved, chosen.context_length - used)),
            )
            choices: list[str] = []
            if self.documents is not None and prompt.sources and not service.writes:
                choices = await asyncio.to_thread(
                    candidates, self.queries, prompt.sources, self.documents.embedder
                )
            return GenerationRequest(
                prompt.messages, chosen.name, sampling, chosen.context_length, choices
            )

        fallback = Fallback(ask.services, prepare, ask.insist)
        try:
            async for piece in fallback.stream():
                if isinstance(piece, Started):
                    answer.skipped = _skipped(fallback)
                    _record_start(answer, self.conversation, piece, made[piece.service.name])
                else:
                    _record_chunk(answer, piece, self.on_text)
        finally:
            answer.skipped = _skipped(fallback)

    def notice_silent_cut(self) -> None:
        """Some servers drop the beginning of a long prompt without a word: they count too few."""
        answer = self.answer
        sent = [answer.prompt]
        for turn in self.earlier[self.conversation.first_turn :]:
            if turn.complete:
                sent += [turn.prompt, turn.text]
        least = sum(len(part.split()) for part in sent)  # a word is a token at least
        counted = answer.usage.prompt_tokens
        # What remains after a cut fills a context: a count below the smallest is just a wrong one.
        if counted is not None and LEAST_CONTEXT <= counted < 0.8 * least:
            what = f"the server read {counted} of at least {least} tokens"
            answer.dropped = [*answer.dropped, Dropped("prompt", what)]

    async def cite(self) -> None:
        """Ties sentences to sources; an embedder that fails now does not undo a whole answer."""
        if self.documents is None:
            return
        answer, sources = self.answer, known_sources(self.conversation)
        citer = Citer(self.documents.embedder)
        try:
            async with asyncio.timeout(_CITING):
                found = await asyncio.to_thread(citer.cite, answer.text, sources)
            answer.citations, answer.unsupported = found
        except (GearshiftError, TimeoutError) as error:
            why = f"sentences were not compared with the sources: {error or 'it took too long'}"
            log.warning("%s", why)
            answer.citations = written_citations(answer.text, sources)
            answer.dropped = [*answer.dropped, Dropped("citations", why)]


def _skipped(fallback: Fallback) -> dict[str, str]:
    return {name: failure.error.message for name, failure in fallback.failures.items()}


def _record_start(
    answer: Answer, conversation: Conversation, started: Started, prompt: Prompt
) -> None:
    answer.provider = started.service.name
    answer.model = started.request.model
    answer.fallback_from = started.fallback_from
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
