"""`OllamaService`: Ollama's native API, whose chat reports errors that its `/v1` swallows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gearshift.errors import ContextExceeded, ProtocolError, ServerFailed, Truncated
from gearshift.providers._base import BaseLLMService
from gearshift.providers._faults import excerpt, from_report, reported
from gearshift.providers._http import Endpoint
from gearshift.providers._loop import Relay, on_loop, submit
from gearshift.providers._versions import older
from gearshift.providers._wire import Lines, NotJSON, as_count, read_json
from gearshift.schemas import (
    Chunk,
    ConnectionStatus,
    FinishReason,
    GenerationRequest,
    LoadedModel,
    ModelInfo,
    Usage,
)

_SAFE_VERSION = "0.35.0"  # versions below have published security holes
_SHORT = 6_000  # bytes of a prompt that fits into any default context
_MOST_CONTEXT = 8192  # tokens; Ollama reserves memory for all that is asked for


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] | None = None


class _Line(msgspec.Struct):
    message: _Message | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Line).decode


class OllamaReader:
    """Reads the lines of `/api/chat`; `done: true` is the proof of the end."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._lines = Lines()
        self._last: Chunk | None = None

    @property
    def proven(self) -> bool:
        return self._last is not None

    finished = proven  # nothing follows the line with `done`

    def feed(self, data: bytes, into: list[Chunk]) -> None:
        for line in self._lines.feed(data):
            if line.strip():
                self._read(line, into)

    def end(self, into: list[Chunk]) -> None:
        rest = self._lines.rest()
        if rest.strip():
            try:
                self._read(rest, into)
            except ProtocolError:
                if not self.proven:
                    raise self._truncated() from None
        if self._last is None:
            raise self._truncated()
        into.append(self._last)

    def _truncated(self) -> Truncated:
        return Truncated(
            f"{self._who} ended the stream without saying that the answer is complete",
            hint="ask again; the server's log says why it stopped",
        )

    def _read(self, line: bytes, into: list[Chunk]) -> None:
        if self._last is not None:
            raise self._broken("something after its end")
        try:
            event = read_json(line, _decode)
        except NotJSON as wrong:
            raise self._broken(f"a line that cannot be read ({excerpt(str(wrong))})") from None
        if event.error:
            error = reported({"error": event.error})
            assert error is not None
            raise from_report(error, self._who)
        if event.done is None or (event.message is None and not event.done):
            raise self._broken("a line that is not a piece of a chat")
        if event.message is not None:
            text, reasoning = event.message.content or "", event.message.thinking or ""
            if text or reasoning or event.message.tool_calls:
                into.append(Chunk(text, reasoning))
        if event.done:
            # Servers before 0.1.38 or so gave no reason; "load" answers a chat without messages.
            reason = FinishReason.STOP if event.done_reason is None else event.done_reason
            try:
                finish = FinishReason(reason)
            except ValueError:
                raise Truncated(
                    f"{self._who} gave the answer up ({excerpt(str(reason))})", hint="ask again"
                ) from None
            usage = Usage(as_count(event.prompt_eval_count), as_count(event.eval_count))
            self._last = Chunk(finish_reason=finish, usage=usage)

    def _broken(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self._who} sent {what}", hint="ask again; is this really Ollama?")


def _context(request: GenerationRequest) -> int | None:
    """The context to ask for; `None` leaves it to the server, whose default holds short prompts.

    Older servers drop what is too long without a word, whatever they are told, so a prompt that
    certainly does not fit is refused here: a word is a token at least.

    Raises:
        ContextExceeded: there are more words than the context has tokens.
    """
    text = " ".join(message.content for message in request.messages)
    words = len(text.split())
    if request.context_length is None and len(text.encode()) < _SHORT:
        return None
    context = request.context_length or _MOST_CONTEXT
    if words > context:
        raise ContextExceeded(
            f"the prompt has at least {words} tokens, the context holds {context}",
            hint="shorten the prompt, or use a model with more context",
        )
    return context


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a download is, in bytes; `None` while Ollama does not say."""

    status: str
    completed: int | None = None
    total: int | None = None


class OllamaService(BaseLLMService):
    """Speaks to the server at `OLLAMA_BASE_URL`."""

    name = "ollama"
    label = "Ollama"
    how_to_add_a_model = "pull one: ollama pull mistral"

    @property
    def url(self) -> str:
        return self.settings.ollama_base_url

    async def _endpoint(self) -> Endpoint:
        return Endpoint(
            f"{self.label} at {self.url}",
            self.url,
            self.budgets.connect,
            proxy=self.settings.proxy,
        )

    def _chat(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        context = _context(request)
        sampling = request.sampling
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "num_predict": sampling.max_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "repeat_penalty": sampling.repetition_penalty,
            "num_ctx": context,
        }
        return "/api/chat", {
            "model": request.model,
            "messages": [message.as_dict() for message in request.messages],
            "stream": True,
            # A prompt that is too long shall be an error: by default the oldest messages, our
            # sources among them, are dropped without a word. Servers that do not know it ignore it.
            "truncate": False,
            "shift": False,
            "options": {name: value for name, value in options.items() if value is not None},
        }

    def _reader(self, request: GenerationRequest) -> OllamaReader:
        return OllamaReader(self.label)

    async def _list_models(self) -> list[ModelInfo]:
        answer = await (await self._endpoint()).ask("/api/tags")
        rows = answer.get("models")
        if rows is None and "models" in answer:
            rows = []  # how Go writes an empty list
        if not isinstance(rows, list):
            raise ProtocolError(
                f"{self.label} did not list its models", hint="check host, port and path"
            )
        return [
            _model(row)
            for row in rows
            if isinstance(row, dict) and isinstance(row.get("name"), str) and row["name"]
        ]

    async def _context_length(self, model: str) -> int | None:
        """The model's own context from `/api/show`, but no more than Ollama should allocate."""
        answer = await self._show(model)
        facts = answer.get("model_info")
        for name, value in (facts if isinstance(facts, dict) else {}).items():
            if str(name).endswith(".context_length") and (length := as_count(value)):
                return min(length, _MOST_CONTEXT)
        return None

    async def _check(self) -> ConnectionStatus:
        endpoint = await self._endpoint()
        version = (await endpoint.ask("/api/version")).get("version")
        models = [model for model in await self._list_models() if not model.embeds]
        shown = version if isinstance(version, str) else None
        if not models:
            return ConnectionStatus(
                False, "It runs but has no model: try `ollama pull mistral`.", shown
            )
        detail = f"{len(models)} model{'s' if len(models) > 1 else ''}"
        outdated = shown is not None and older(shown, _SAFE_VERSION)
        if outdated:
            detail += f"; version {shown} has known security holes: update to {_SAFE_VERSION}"
        return ConnectionStatus(True, detail, shown, outdated)

    async def _embed(self, texts: Sequence[str], model: str) -> list[list[float]]:
        endpoint = await self._endpoint()
        payload = {"model": model, "input": list(texts)}
        answer = await endpoint.ask("/api/embed", payload, model, self.budgets.first_token)
        try:
            return [[float(value) for value in vector] for vector in answer["embeddings"]]
        except (KeyError, TypeError, ValueError):
            raise ProtocolError(
                f"{self.label} did not return embeddings", hint="use another embedding model"
            ) from None

    async def loaded(self) -> list[LoadedModel]:
        """The models that are in memory now.

        Raises:
            ProviderError: it does not say.
        """
        return await on_loop(self._loaded())

    async def show(self, model: str) -> dict[str, Any]:
        """All that `/api/show` tells of a model: its Modelfile and `model_info` among it.

        Raises:
            ProviderError: it does not say.
        """
        return await on_loop(self._show(model))

    async def _show(self, model: str) -> dict[str, Any]:
        return await (await self._endpoint()).ask("/api/show", {"model": model}, model)

    async def _loaded(self) -> list[LoadedModel]:
        rows = (await (await self._endpoint()).ask("/api/ps")).get("models")
        if not isinstance(rows, list):
            raise ProtocolError(
                f"{self.label} did not say what it has loaded", hint="check host, port and path"
            )
        return [
            LoadedModel(
                row["name"],
                as_count(row.get("size")),
                as_count(row.get("size_vram")),
                _text(row.get("expires_at")),
                as_count(row.get("context_length")),
            )
            for row in rows
            if isinstance(row, dict) and _text(row.get("name"))
        ]

    async def pull(self, model: str) -> AsyncIterator[PullProgress]:
        """Downloads a model; ends only when Ollama says that it succeeded.

        Raises:
            ServerFailed: Ollama reports why it could not; `Truncated` without its proof.
        """
        relay: Relay[PullProgress] = Relay()
        job = submit(self._pull(model, relay))
        try:
            while batch := await relay.get():
                for progress in batch:
                    yield progress
        finally:
            job.cancel()

    async def _pull(self, model: str, relay: Relay[PullProgress]) -> None:
        error: BaseException | None = None
        try:
            lines, done = Lines(), False
            endpoint = await self._endpoint()
            async with endpoint.open("/api/pull", {"model": model, "stream": True}) as response:
                async for data in response.content.iter_any():
                    rows = [_progress(line) for line in lines.feed(data) if line.strip()]
                    done = done or any(row.status == "success" for row in rows)
                    relay.put(rows)
            if not done:
                raise Truncated(
                    f"Ollama stopped pulling {model!r} before it was complete",
                    hint="pull it again: what was downloaded is kept",
                )
        except Exception as failed:
            error = failed
            raise
        finally:
            relay.end(error)


def _progress(line: bytes) -> PullProgress:
    try:
        row = read_json(line)
    except NotJSON:
        row = None
    if not isinstance(row, dict):
        raise ProtocolError("Ollama sent a line that cannot be read", hint="pull it again")
    if error := reported(row):
        raise ServerFailed(
            f"Ollama could not pull the model: {error.message}",
            hint="check the model's name at ollama.com/library and the connection",
        )
    numbers = [row.get(key) for key in ("completed", "total")]
    completed, total = map(as_count, numbers)
    return PullProgress(str(row.get("status", "")), completed, total)


def _model(row: dict[str, Any]) -> ModelInfo:
    details = row.get("details")
    details = details if isinstance(details, dict) else {}
    families = details.get("families")
    families = families if isinstance(families, list) and families else [details.get("family")]
    capabilities = row.get("capabilities")
    embeds = (
        "completion" not in capabilities
        if isinstance(capabilities, list) and capabilities
        else any("bert" in str(family) for family in families)
    )
    return ModelInfo(
        row["name"],
        size_bytes=as_count(row.get("size")),
        quantization=_text(details.get("quantization_level")),
        parameters=_text(details.get("parameter_size")),
        embeds=embeds,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
