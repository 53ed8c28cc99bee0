"""`EmbeddedService`: a 135M model in a child process of ours, for trying things out.

It needs no server, no GPU and no download beyond the packages, so it is what remains when every
other provider fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any

from gearshift.errors import ModelNotFound, Truncated, Unreachable
from gearshift.providers._http import Endpoint
from gearshift.providers._llama_server import CONTEXT_LENGTH, MODEL_NAME, LlamaServer, weights
from gearshift.providers._loop import on_loop
from gearshift.providers._model_map import same_model
from gearshift.providers._openai import OpenAICompatibleService
from gearshift.schemas import Chunk, ConnectionStatus, GenerationRequest, ModelInfo
from gearshift.settings import Settings


class EmbeddedService(OpenAICompatibleService):
    """Starts llama.cpp's server on first use and speaks to it like to any other."""

    name = "embedded"
    label = "Embedded model"
    writes = False  # measured: left to itself, four of five of its sentences are made up
    passages = 2  # each costs two seconds of reading on a laptop
    answer_tokens = 320  # a small model that goes on for longer only repeats itself

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._server = LlamaServer(settings.home_dir / "logs")

    @property
    def url(self) -> str:
        return ""  # it has none that others could use

    async def warm_up(self) -> None:
        with self._server.in_use():
            await on_loop(self._endpoint())

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        with self._server.in_use():
            try:
                async with aclosing(super().stream(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (Truncated, Unreachable):
                # A dying child closes its connections before it can be seen to be dead.
                await asyncio.to_thread(self._server.wait_if_dying)
                raise

    async def _endpoint(self) -> Endpoint:
        url, key = await asyncio.to_thread(self._server.start)
        return Endpoint(self.label, url, self.budgets.connect, key)

    def _chat(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        # llama.cpp's server would answer to any name, and the record would name a wrong model.
        if not same_model(request.model, MODEL_NAME):
            raise ModelNotFound(f"{self.label} has no model {request.model!r}")
        path, payload = super()._chat(request)
        payload["cache_prompt"] = True
        penalty = payload.pop("repetition_penalty", 1.1)  # llama.cpp's name for it is another
        if request.choices:
            return path, payload | {"grammar": _grammar(request.choices), "temperature": 0}
        return path, payload | {"repeat_penalty": penalty}

    async def _list_models(self) -> list[ModelInfo]:
        await asyncio.to_thread(weights)
        return [ModelInfo(MODEL_NAME, CONTEXT_LENGTH, quantization="Q4_1", parameters="135M")]

    async def _check(self) -> ConnectionStatus:
        await self._list_models()
        return ConnectionStatus(
            True,
            "a 135M model for trying things out: it picks sentences, not always the right ones",
        )

    def in_use(self) -> AbstractContextManager[None]:
        return self._server.in_use()

    def close(self) -> None:
        self._server.stop()


def _grammar(choices: Sequence[str]) -> str:
    """A GBNF grammar of one or two of the sentences, in their order."""
    count = len(choices)
    rules = ["root ::= " + " | ".join(f"s{i} t{i}" for i in range(count))]
    for i, sentence in enumerate(choices):
        rules.append(f"s{i} ::= {json.dumps(sentence, ensure_ascii=False)}")
        later = " | ".join(f"s{j}" for j in range(i + 1, count))
        rules.append(f't{i} ::= (" " ({later}))?' if later else f't{i} ::= ""')
    return "\n".join(rules)
