"""`BaseLLMService`: what every provider offers, and the one streaming path that they share.

A provider says which path and payload a request becomes, which reader understands the response,
and how its models are listed. Budgets, cancelling, hand-over between loops and the translation of
faults are here, once. No state of a stream lives on a service: streams run side by side.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import aiohttp

from gearshift.errors import (
    ModelNotFound,
    ProtocolError,
    ProviderError,
    Rejected,
    Stalled,
    TimedOut,
    Truncated,
)
from gearshift.providers._faults import from_transport
from gearshift.providers._http import Budgets, Endpoint
from gearshift.providers._loop import Relay, on_loop, submit
from gearshift.providers._model_map import pick
from gearshift.providers._wire import StreamReader
from gearshift.schemas import (
    Chunk,
    ConnectionStatus,
    FinishReason,
    Generation,
    GenerationRequest,
    Message,
    ModelInfo,
    SamplingParams,
    Usage,
)
from gearshift.settings import Settings

log = logging.getLogger(__name__)

_MAX_STREAM_BYTES = 64 << 20
_NAMES_TIMEOUT = 2.0  # seconds
_END_GRACE = 2.0  # seconds that usage may come after the proof of the end


@dataclass(frozen=True, slots=True)
class Wire:
    """A request as bytes will say it: where it goes, and the class that reads the answer.

    `reader` is written `module:Name`, so that another process finds it.
    """

    endpoint: Endpoint
    path: str
    payload: dict[str, Any]
    reader: str


class BaseLLMService(ABC):
    """A provider of language models.

    Every method may be awaited on any event loop. All raise subclasses of `ProviderError`.
    """

    name: ClassVar[str]
    """The slug in settings and JSON: `ollama`."""
    label: ClassVar[str]
    """How people write it: `Ollama`."""
    how_to_add_a_model: ClassVar[str] = "start the server with a model"
    """What to do when it lists none."""
    passages: ClassVar[int] = 5
    """Passages that a question is answered from."""
    answer_tokens: ClassVar[int] = 768
    """The longest answer, in tokens, when nobody asked for another length."""
    writes: ClassVar[bool] = True
    """Whether its model can write an answer; otherwise it picks sentences from the sources."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.budgets = Budgets.of(settings)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the server is, without a slash at the end."""

    # What a provider implements, on the background loop.

    @abstractmethod
    async def _endpoint(self) -> Endpoint: ...

    @abstractmethod
    def _chat(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        """The path and the payload that a request becomes."""

    @abstractmethod
    def _reader(self, request: GenerationRequest) -> StreamReader: ...

    @abstractmethod
    async def _list_models(self) -> list[ModelInfo]: ...

    @abstractmethod
    async def _check(self) -> ConnectionStatus: ...

    async def _embed(self, texts: Sequence[str], model: str) -> list[list[float]]:
        raise Rejected(f"{self.label} does not embed", hint="use the built-in embedder")

    async def _context_length(self, model: str) -> int | None:
        return next((m.context_length for m in await self._list_models() if m.name == model), None)

    # What callers use.

    async def check_connection(self) -> ConnectionStatus:
        """Whether this provider can answer a chat now, and in words why not. Never raises."""
        try:
            return await on_loop(self._check())
        except ProviderError as error:
            return ConnectionStatus(False, f"{error.message}. Next: {error.hint}.")

    async def warm_up(self) -> None:
        """Does now what the first answer would wait for, where there is such a thing.

        Raises:
            ProviderError: it failed, and so would an answer.
        """
        return None

    async def list_models(self) -> list[ModelInfo]:
        """The models that it offers, those that embed included."""
        return await on_loop(self._list_models())

    async def embed(self, texts: Sequence[str], model: str) -> list[list[float]]:
        """One vector for each text, all of one dimension.

        Raises:
            Rejected: the server cannot embed.
        """
        vectors = await on_loop(self._embed(texts, model))
        if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) > 1:
            raise ProtocolError(
                f"{self.label} did not return one vector for each text",
                hint="use another embedding model",
            )
        return vectors

    async def context_length(self, model: str) -> int | None:
        """Tokens of context to make a prompt for; `None` where the server does not say."""
        return await on_loop(self._context_length(model))

    async def ask(
        self, path: str, payload: dict[str, Any] | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """What the server answers to a question of its own interface, a JSON object.

        Raises:
            ProviderError: it does not answer, or with something else.
        """
        return await on_loop(self._ask(path, payload, model))

    async def _ask(
        self, path: str, payload: dict[str, Any] | None, model: str | None
    ) -> dict[str, Any]:
        return await (await self._endpoint()).ask(path, payload, model, self.budgets.first_token)

    def generate_stream(
        self,
        prompt: str | None = None,
        model: str | None = None,
        *,
        messages: Sequence[Message | dict[str, str]] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        repetition_penalty: float | None = None,
        context_length: int | None = None,
    ) -> AsyncGenerator[Chunk]:
        """Streams one answer; the last chunk, and only it, has a `finish_reason`.

        Closing the generator, also before the first chunk, closes the connection to the server.
        Without `model`, `DEFAULT_MODEL` is taken if the provider has it, else its first one.

        Raises:
            ProviderError: the answer is not whole; `partial` holds the text that had come.
        """
        sampling = SamplingParams(
            temperature, top_p, top_k, max_tokens, seed, tuple(stop), repetition_penalty
        )
        request = GenerationRequest(
            _as_messages(prompt, messages), model or "", sampling, context_length
        )
        return self.stream(request)

    async def generate(
        self, prompt: str | None = None, model: str | None = None, **options: Any
    ) -> Generation:
        """The whole answer; takes what `generate_stream` takes and raises what it raises."""
        if not model:
            model = await on_loop(self._some_model())
        text: list[str] = []
        reasoning: list[str] = []
        last = Chunk()
        async for chunk in self.generate_stream(prompt, model, **options):
            text.append(chunk.text)
            reasoning.append(chunk.reasoning)
            last = chunk
        return Generation(
            "".join(text),
            "".join(reasoning),
            last.finish_reason or FinishReason.STOP,
            last.usage or Usage(),
            model,
            self.name,
        )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """`generate_stream` for a request that is already made."""
        relay: Relay[Chunk] = Relay()
        job = submit(self._pump(request, relay))
        try:
            while batch := await relay.get():
                for chunk in batch:
                    yield chunk
        finally:
            job.cancel()

    async def on_the_wire(self, request: GenerationRequest) -> Wire:
        """What a request becomes: for those who send it themselves, the load generator.

        Raises:
            ProviderError: the server that would take it cannot be started.
        """
        endpoint = await on_loop(self._endpoint())
        path, payload = self._chat(request)
        reader = type(self._reader(request))
        return Wire(endpoint, path, payload, f"{reader.__module__}:{reader.__qualname__}")

    def in_use(self) -> AbstractContextManager[None]:
        """Held by who sends requests by itself: what the service started is not ended meanwhile."""
        return nullcontext()

    def close(self) -> None:
        """Gives back what the service holds beyond the shared session: a process, for one."""
        return None

    # The streaming path, on the background loop.

    async def _some_model(self) -> str:
        default = self.settings.default_model
        try:
            async with asyncio.timeout(_NAMES_TIMEOUT):
                return pick(await self._list_models(), None, default) or default
        except (ProviderError, TimeoutError):
            return default  # listing is a help: the chat itself says what is wrong

    async def _pump(self, request: GenerationRequest, relay: Relay[Chunk]) -> None:
        """Reads one response to its end and relays its chunks; every end reaches the relay."""
        partial: list[str] = []
        error: BaseException | None = None
        try:
            if not request.model:
                request = replace(request, model=await self._some_model())
            await self._receive(request, relay, partial)
        except ProviderError as failed:
            failed.partial = "".join(partial)
            if isinstance(failed, ModelNotFound):
                await self._name_models(failed)
            error = failed
        except asyncio.CancelledError:
            error = Truncated(f"{self.label}: stopped", partial="".join(partial))
            raise
        except Exception as bug:
            # The consumer must never wait for a producer that died, and falls back whatever it was.
            log.exception("unexpected, from %s", self.label)
            error = ProtocolError(
                f"{self.label} answered with something unexpected ({type(bug).__name__})",
                hint="ask again, and please report it: the log has more",
                partial="".join(partial),
            )
        finally:
            relay.end(error)

    async def _name_models(self, error: ModelNotFound) -> None:
        """Adds what there is to the error's hint, where the server says it soon."""
        try:
            async with asyncio.timeout(_NAMES_TIMEOUT):
                names = [model.name for model in await self._list_models() if not model.embeds]
        except (ProviderError, TimeoutError):
            return
        if not names:
            error.hint = self.how_to_add_a_model
        else:
            error.hint = f"choose one that it has: {', '.join(names[:20])}"

    async def _receive(
        self, request: GenerationRequest, relay: Relay[Chunk], partial: list[str]
    ) -> None:
        now = asyncio.get_running_loop().time
        started = now()
        last = started + self.budgets.total
        first = started + self.budgets.first_token
        progress = self.budgets.progress
        reader = self._reader(request)
        began = proven = False
        try:
            async with asyncio.timeout_at(min(first, last)) as clock:
                endpoint = await self._endpoint()
                path, payload = self._chat(request)
                async with endpoint.open_when_free(path, payload, request.model, first) as response:
                    size = 0
                    while data := await _block(response, endpoint.who, reader):
                        size += len(data)
                        if _hand_over(reader, data, relay, partial):
                            began = True
                            _put_off(clock, now() + progress, last, slack=progress / 20)
                        if reader.finished:
                            break
                        if reader.proven and not proven:
                            proven = True
                            clock.reschedule(min(now() + _END_GRACE, last))
                        if size > _MAX_STREAM_BYTES:
                            raise ProtocolError(
                                f"{endpoint.who} sent more than {_MAX_STREAM_BYTES >> 20} MiB",
                                hint="check that the address is that of a language model server",
                            )
        except TimeoutError:
            if not reader.proven:
                raise self._late(began, now() - started) from None
        _hand_over(reader, None, relay, partial)

    def _late(self, began: bool, seconds: float) -> ProviderError:
        budget = self.budgets
        if seconds >= budget.total:
            return TimedOut(
                f"{self.label} did not finish within {budget.total:g} s",
                hint="ask for a shorter answer, or raise GEARSHIFT_TOTAL_TIMEOUT",
            )
        if began:
            return Stalled(
                f"{self.label} went silent in mid-answer for {budget.progress:g} s",
                hint="ask again; a server that is only slow needs GEARSHIFT_PROGRESS_TIMEOUT",
            )
        return TimedOut(
            f"{self.label} sent no first token within {budget.first_token:g} s",
            hint="it may be loading the model or be overloaded: wait and ask again, or raise "
            "GEARSHIFT_FIRST_TOKEN_TIMEOUT",
        )


def _as_messages(
    prompt: str | None, messages: Sequence[Message | dict[str, str]] | None
) -> tuple[Message, ...]:
    if (prompt is None) == (messages is None):
        raise TypeError("give either prompt or messages")
    if messages is None:
        return (Message("user", prompt or ""),)
    return tuple(
        m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages
    )


async def _block(response: aiohttp.ClientResponse, who: str, reader: StreamReader) -> bytes:
    """The next bytes of the body, none at its end; after the proof a broken connection is one."""
    try:
        return await response.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        if reader.proven:
            return b""
        raise from_transport(error, who, answering=True) from None


def _hand_over(
    reader: StreamReader, data: bytes | None, relay: Relay[Chunk], partial: list[str]
) -> bool:
    """Relays what `data` brings, or the end when it is `None`; returns whether that is progress.

    What stands before an error is relayed, too. A piece of a tool call is progress, but nothing to
    show.
    """
    batch: list[Chunk] = []
    try:
        if data is None:
            reader.end(batch)
        else:
            reader.feed(data, batch)
    finally:
        shown = [chunk for chunk in batch if chunk.text or chunk.reasoning or chunk.finish_reason]
        partial.extend([chunk.text for chunk in shown])
        relay.put(shown)
    return bool(batch)


def _put_off(clock: asyncio.Timeout, until: float, last: float, slack: float) -> None:
    """Moves the deadline to `until`, or up to `slack` later, and no later than `last`.

    Without slack every token would move it, and that costs more than the token.
    """
    due = clock.when()
    assert due is not None
    if not min(until, last) <= due <= until + slack:
        clock.reschedule(min(until + slack, last))
