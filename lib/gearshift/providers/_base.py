"""`BaseLLMService`: what every provider offers, and the one streaming path that they share.

A provider says which path and payload a request becomes, which reader understands the response,
and how its models are listed. Budgets, cancelling, hand-over between loops and the translation of
faults are here, once. No state of a stream lives on a service: streams run side by side.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
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
            return ConnectionStatus(False, f"{error.message}. {error.hint}".strip())

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

    async def generate_stream(
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
        context_length: int | None = None,
    ) -> AsyncGenerator[Chunk]:
        """Streams one answer; the last chunk, and only it, has a `finish_reason`.

        Closing the generator, also before the first chunk, closes the connection to the server.
        Without `model`, `DEFAULT_MODEL` is taken if the provider has it, else its first one.

        Raises:
            ProviderError: the answer is not whole; `partial` holds the text that had come.
        """
        sampling = SamplingParams(temperature, top_p, top_k, max_tokens, seed, tuple(stop))
        request = GenerationRequest(
            _as_messages(prompt, messages), model or "", sampling, context_length
        )
        async for chunk in self.stream(request):
            yield chunk

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
            async for batch in relay.batches():
                for chunk in batch:
                    yield chunk
        finally:
            job.cancel()

    def close(self) -> None:
        """Gives back what the service holds beyond the shared session: a process, for one."""
        return None

    # The streaming path, on the background loop.

    async def _some_model(self) -> str:
        name = pick(await self._list_models(), None, self.settings.default_model)
        if name is None:
            raise ModelNotFound(f"{self.label} has no model", hint=self.how_to_add_a_model)
        return name

    async def _pump(self, request: GenerationRequest, relay: Relay[Chunk]) -> None:
        """Reads one response to its end and relays its chunks; every end reaches the relay."""
        partial: list[str] = []
        error: BaseException | None = None
        try:
            if not request.model:
                request = GenerationRequest(
                    request.messages,
                    await self._some_model(),
                    request.sampling,
                    request.context_length,
                )
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
            # The consumer must never wait for a producer that died: whatever it was is handed on.
            error = bug
            raise
        finally:
            relay.end(error)

    async def _name_models(self, error: ModelNotFound) -> None:
        """Adds what there is to the error's hint, where the server says it soon."""
        try:
            async with asyncio.timeout(_NAMES_TIMEOUT):
                names = [model.name for model in await self._list_models() if not model.embeds]
        except (ProviderError, TimeoutError):
            return
        if names:
            error.hint = f"choose one that it has: {', '.join(names[:20])}"

    async def _receive(
        self, request: GenerationRequest, relay: Relay[Chunk], partial: list[str]
    ) -> None:
        now = asyncio.get_running_loop().time
        started = now()
        last = started + self.budgets.total
        first = started + self.budgets.first_token
        reader = self._reader(request)
        began = False
        try:
            async with asyncio.timeout_at(min(first, last)) as clock:
                endpoint = await self._endpoint()
                path, payload = self._chat(request)
                async with endpoint.open_when_free(path, payload, request.model, first) as response:
                    size = 0
                    async for data in _blocks(response, endpoint.who, reader):
                        size += len(data)
                        if _relay_chunks(reader.feed(data), relay, partial):
                            began = True
                            clock.reschedule(min(now() + self.budgets.progress, last))
                        if reader.finished:
                            break
                        if reader.proven:
                            clock.reschedule(min(now() + _END_GRACE, last))
                        if size > _MAX_STREAM_BYTES:
                            raise ProtocolError(
                                f"{endpoint.who} sent more than {_MAX_STREAM_BYTES >> 20} MiB",
                                hint="check that the address is that of a language model server",
                            )
        except TimeoutError:
            if not reader.proven:
                raise self._late(began, now() - started) from None
        _relay_chunks(reader.end(), relay, partial)

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


async def _blocks(
    response: aiohttp.ClientResponse, who: str, reader: StreamReader
) -> AsyncIterator[bytes]:
    """The body as it comes; a connection that breaks after the proof of the end is an end."""
    try:
        async for data in response.content.iter_any():
            yield data
    except (aiohttp.ClientError, OSError) as error:
        if not reader.proven:
            raise from_transport(error, who, answering=True) from None


def _relay_chunks(chunks: Iterable[Chunk], relay: Relay[Chunk], partial: list[str]) -> bool:
    """Relays what comes, also when an error ends it; returns whether that was progress."""
    batch: list[Chunk] = []
    progress = False
    try:
        for chunk in chunks:
            if chunk.text:
                partial.append(chunk.text)
                progress = True
                batch.append(chunk)
            elif chunk.reasoning or chunk.finish_reason:
                progress = True
                batch.append(chunk)
            else:
                progress = True  # a piece of a tool call: nothing to show, but it moves
    finally:
        if batch:
            relay.put(batch)
    return progress
