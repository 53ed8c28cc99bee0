"""The shared base of providers that speak OpenAI's chat completions (vLLM, llama.cpp's server)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gearshift.errors import ProtocolError, ProviderError, Truncated
from gearshift.providers._base import BaseLLMService
from gearshift.providers._faults import excerpt, from_report, reported
from gearshift.providers._wire import Events, NotJSON, as_count, read_json
from gearshift.schemas import Chunk, FinishReason, GenerationRequest, ModelInfo, Usage


class _Delta(msgspec.Struct, gc=False):
    role: Any = None  # in the first message, whose text is then empty
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None  # what vLLM called it before 0.11, and llama.cpp does
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None  # a server that ignores `stream` answers in one piece
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None  # a help: whatever stands there does not make the answer a wrong one
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


_HINT = "ask again; is this an OpenAI-compatible server?"


class _Unreadable(ProtocolError):
    """An event is no JSON of the right shape."""


class OpenAIReader:
    """Reads a stream of chat completion chunks; `finish_reason` is the proof of the end.

    The chunk with `finish_reason` is held back until `[DONE]`, because usage, or an error, may
    still follow it.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._events = Events()
        self._last: Chunk | None = None
        self._usage: Usage | None = None
        self._done = False

    @property
    def proven(self) -> bool:
        return self._last is not None

    @property
    def finished(self) -> bool:
        return self._done

    def feed(self, data: bytes, into: list[Chunk]) -> None:
        for name, event in self._events.feed(data):
            self._read(name, event, into)

    def end(self, into: list[Chunk]) -> None:
        if not self.finished:
            try:
                for name, event in self._events.rest():
                    self._read(name, event, into)
            except _Unreadable:
                # Cut off in mid-event: behind the proof that does not matter.
                if not self.proven:
                    raise self._truncated() from None
        if self._last is None:
            raise self._truncated()
        self._last.usage = self._usage
        into.append(self._last)

    def _truncated(self) -> Truncated:
        return Truncated(
            f"{self._who} ended the stream without saying that the answer is complete",
            hint="ask again; the server's log says why it stopped",
        )

    def _read(self, name: bytes, data: bytes, into: list[Chunk]) -> None:
        if self._done:
            raise self._broken("something after its end")
        if data.strip() == b"[DONE]":
            if self._last is None:
                raise self._truncated()
            self._done = True
            return
        if name == b"error":
            raise self._error(data)
        try:
            event = read_json(data, _decode)
        except NotJSON as wrong:
            if b'"error"' in data:
                raise self._error(data) from None
            raise _Unreadable(
                f"{self._who} sent an event that cannot be read ({excerpt(str(wrong))})",
                hint=_HINT,
            ) from None
        if event.error:
            raise self._error(data)
        if isinstance(event.usage, dict):
            read, written = map(event.usage.get, ("prompt_tokens", "completion_tokens"))
            self._usage = Usage(as_count(read), as_count(written))
        elif event.choices is None:
            if reported(read_json(data)):
                raise self._error(data)
            raise self._broken("an event without choices")
        for choice in event.choices or ():
            if choice.index == 0:
                self._choice(choice, into)

    def _choice(self, choice: _Choice, into: list[Chunk]) -> None:
        delta = choice.delta or choice.message
        if delta is None and not choice.finish_reason:
            raise self._broken("a choice without a delta")
        if delta is not None:
            text = delta.content or ""
            reasoning = delta.reasoning or delta.reasoning_content or ""
            if text or reasoning or delta.tool_calls:
                if self._last is not None:
                    raise self._broken("more text after the end of the answer")
                into.append(Chunk(text, reasoning))
        if choice.finish_reason:
            try:
                reason = FinishReason(choice.finish_reason)
            except ValueError:
                # vLLM says "abort" when it is stopped in mid-answer: no reason to trust the rest.
                raise Truncated(
                    f"{self._who} gave the answer up ({excerpt(choice.finish_reason)})",
                    hint="the server was probably being stopped: ask again",
                ) from None
            self._last = Chunk(finish_reason=reason)

    def _broken(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self._who} sent {what}", hint=_HINT)

    def _error(self, data: bytes) -> ProviderError:
        try:
            body = read_json(data)
        except NotJSON:
            body = data.decode("utf-8", "replace")
        error = reported(body) or reported({"error": body})
        assert error is not None
        return from_report(error, self._who)


class OpenAICompatibleService(BaseLLMService):
    """A provider behind `/v1/chat/completions`."""

    def _chat(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        sampling = request.sampling
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "repetition_penalty": sampling.repetition_penalty,
        }
        return "/v1/chat/completions", {
            "model": request.model,
            "messages": [message.as_dict() for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in options.items() if value is not None},
        }

    def _reader(self, request: GenerationRequest) -> OpenAIReader:
        return OpenAIReader(self.label)

    async def _list_models(self) -> list[ModelInfo]:
        answer = await (await self._endpoint()).ask("/v1/models")
        rows = answer.get("data")
        if not isinstance(rows, list):
            raise ProtocolError(
                f"{self.label} did not list its models", hint="check host, port and path"
            )
        return [
            ModelInfo(row["id"], context_length=as_count(row.get("max_model_len")))
            for row in rows
            if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]
        ]

    async def _embed(self, texts: Sequence[str], model: str) -> list[list[float]]:
        endpoint = await self._endpoint()
        payload = {"model": model, "input": list(texts), "encoding_format": "float"}
        answer = await endpoint.ask("/v1/embeddings", payload, model, self.budgets.first_token)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            return [[float(value) for value in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError):
            raise ProtocolError(
                f"{self.label} did not return embeddings", hint="use another embedding model"
            ) from None
