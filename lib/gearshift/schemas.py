"""Pure values that the parts hand to each other. Standard library only.

`None` means "unknown", never 0. Times are raw stamps of `time.monotonic()`, in seconds; durations
are properties over them. A `Chunk` is a piece of a streamed answer, a `Passage` a piece of a
document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why an answer ended. Each is proof that it did end."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is `system`, `user` or `assistant`."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample; `None` leaves the choice to the server."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question to one model.

    `context_length` is the context, in tokens, that the prompt was made for: a server that
    allocates it on request (Ollama) is told. `choices` are sentences that the answer may consist
    of: a provider whose model is too small to write (`BaseLLMService.writes`) keeps to them.
    """

    messages: Sequence[Message]
    model: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    context_length: int | None = None
    choices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


# Not frozen: a frozen dataclass costs three times as much to make, and one is made per token.
@dataclass(slots=True)
class Chunk:
    """A piece of a streamed answer; `str(chunk)` is its text.

    The last chunk alone carries `finish_reason`, and `usage` where the server counted.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Timings:
    """Stamps of one answer."""

    started: float
    retrieved: float | None = None
    first_token: float | None = None
    ended: float | None = None

    @property
    def retrieval_s(self) -> float | None:
        """Seconds from the question to the passages."""
        return None if self.retrieved is None else self.retrieved - self.started

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: seconds from the question to the first text, retrieval included."""
        return None if self.first_token is None else self.first_token - self.started

    @property
    def total_s(self) -> float | None:
        """Seconds from the question to the end of the answer."""
        return None if self.ended is None else self.ended - self.started


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer of a model; `str(generation)` is its text."""

    text: str
    reasoning: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    provider: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a provider offers. `context_length` is in tokens, `size_bytes` on disk."""

    name: str
    context_length: int | None = None
    size_bytes: int | None = None
    quantization: str | None = None
    parameters: str | None = None
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that Ollama holds in memory.

    Attributes:
        size_bytes: All of it, its context included.
        gpu_bytes: As much of that as is on GPUs.
        until: When it is unloaded if nobody asks it, as RFC 3339.
        context: Tokens that it was loaded for; older servers do not tell.
    """

    name: str
    size_bytes: int | None = None
    gpu_bytes: int | None = None
    until: str | None = None
    context: int | None = None

    @property
    def gpu_share(self) -> float | None:
        """How much of it is on GPUs, 0 to 1."""
        if not self.size_bytes or self.gpu_bytes is None:
            return None
        return min(1.0, self.gpu_bytes / self.size_bytes)


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """What a provider said when it was asked how it is; true when it can answer a chat.

    `outdated` when its version has published security holes.
    """

    ready: bool
    detail: str
    version: str | None = None
    outdated: bool = False

    def __bool__(self) -> bool:
        return self.ready


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was taken in; `text` is what was read, pages parted by form feeds.

    `digest` is the SHA-256 of the file's bytes, `added` an ISO time in UTC.
    """

    name: str
    digest: str
    title: str | None
    kind: str
    text: str
    pages: int | None
    passages: int
    added: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document: `text` is `document_text[start:end]`.

    `heading` is the path of headings above it, outermost first; `page` counts from 1.
    """

    id: str
    document: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found; a higher `score` is better, comparable within one search."""

    passage: Passage
    score: float


class CitedBy(StrEnum):
    """Who tied a sentence to a passage: the model wrote `[n]`, or we matched it afterwards."""

    MODEL = "model"
    MATCH = "match"


@dataclass(frozen=True, slots=True)
class Citation:
    """`answer[start:end]` is supported by source `number`.

    `passage` is the source's id, or `None` when the model cites a number that does not exist.
    """

    number: int
    passage: str | None
    by: CitedBy
    start: int
    end: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A passage as a conversation knows it: `[number]` stands for it in every turn."""

    number: int
    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that an answer had to do without.

    `what` is `passage` or `turn` (left out of the prompt for want of room), `prompt` (a server
    dropped its beginning) or `citations` (the sentences were not compared with the sources).
    `name` tells a person which one, how much, or why.
    """

    what: str
    name: str


class State(StrEnum):
    """Where an answer is on its way."""

    SEARCHING = "searching"
    WAITING = "waiting"
    ANSWERING = "answering"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def final(self) -> bool:
        """Whether nothing more will come."""
        return self in (State.DONE, State.FAILED, State.STOPPED)


@dataclass(slots=True)
class Answer:
    """One turn of a conversation: a question and everything that is known of its answer.

    It is filled in while it is written. Only with `state` `done` is it whole; `finish_reason`
    is then the server's proof. `prompt` is the user's message exactly as it was sent, so that the
    next turn's prompt begins with this one's. `skipped` maps providers that failed first to why.
    """

    question: str
    timings: Timings
    state: State = State.SEARCHING
    prompt: str = ""
    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    sources: list[Source] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    unsupported: list[tuple[int, int]] = field(default_factory=list)
    provider: str = ""
    model: str = ""
    fallback_from: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    dropped: list[Dropped] = field(default_factory=list)
    error: dict[str, str] | None = None

    @property
    def complete(self) -> bool:
        """Whether the server proved that this is all it had to say."""
        return self.state is State.DONE

    @property
    def tokens_per_s(self) -> float | None:
        """Completion tokens after the first one, over the seconds from the first to the last.

        `None` when all came at once: that is the network's speed, not the model's.
        """
        tokens, timings = self.usage.completion_tokens, self.timings
        if tokens is None or tokens < 2 or timings.first_token is None or timings.ended is None:
            return None
        seconds = timings.ended - timings.first_token
        return (tokens - 1) / seconds if seconds > 0.02 else None
