"""Who is measured: a provider's server, a model of it, and what is to be known for fairness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gearshift.bench._exchange import exchange, reader_maker
from gearshift.bench.metrics import Request
from gearshift.bench.prompts import Messages, synthetic
from gearshift.errors import GearshiftError, ProviderError, SettingsError, Unreachable
from gearshift.providers import BaseLLMService, LLMServiceFactory, run, same_model
from gearshift.providers._base import Wire
from gearshift.providers._models import choose_model
from gearshift.providers._openai import OpenAICompatibleService
from gearshift.providers.ollama import OllamaService
from gearshift.schemas import GenerationRequest, Message, ModelInfo, SamplingParams
from gearshift.settings import Settings, settings_with, variable_name

TEMPERATURE = 0.0
_PROBES = (16, 80)  # words


@dataclass(frozen=True)
class Target:
    """A server that is measured.

    Attributes:
        variant: What distinguishes it from the same provider as it comes.
        context: Tokens of context to make prompts for.
        weights: The precision that the model is served in, where the server says.
        version: Of the server, where it says.
    """

    service: BaseLLMService
    model: str
    context: int
    variant: str | None = None
    version: str | None = None
    weights: str | None = None

    @property
    def provider(self) -> str:
        return self.service.name

    @property
    def label(self) -> str:
        return f"{self.provider} ({self.variant})" if self.variant else self.provider

    def wire(self, output_tokens: int, exactly: bool) -> Wire:
        """How a request reaches it; `exactly` asks for answers of just that length.

        Raises:
            ProviderError: it cannot be started.
        """
        sampling = SamplingParams(temperature=TEMPERATURE, max_tokens=output_tokens)
        request = GenerationRequest(
            (Message("user", ""),), self.model, sampling, self._asked_context
        )
        wire = run(self.service.on_the_wire(request))
        return replace(wire, payload=wire.payload | self.lengthening(exactly))

    @property
    def _asked_context(self) -> int | None:
        return None if isinstance(self.service, OpenAICompatibleService) else self.context

    def lengthening(self, exactly: bool) -> dict[str, Any]:
        """What vLLM and llama.cpp take so that an answer does not end by itself."""
        if not exactly or not isinstance(self.service, OpenAICompatibleService):
            return {}
        return {"ignore_eos": True}


def find_service(provider: str, url: str | None = None) -> BaseLLMService:
    """The provider's service, at another address if one is given.

    Raises:
        SettingsError: the address is not allowed.
        GearshiftError: this provider has no address.
    """
    service = LLMServiceFactory.get_service(provider)
    if url is None:
        return service
    field_name = f"{provider}_base_url"
    if field_name not in Settings.model_fields:
        raise GearshiftError(
            f"the provider {provider} has no address", hint="leave out --url, or name another one"
        )
    address = url.rstrip("/").removesuffix("/v1")
    try:
        return type(service)(settings_with(**{field_name: address}))
    except SettingsError as wrong:
        told = f"wrong settings: {variable_name(field_name)}="  # which nobody has set
        if not wrong.message.startswith(told):
            raise
        what = f"the address {wrong.message.removeprefix(told)}"
        raise SettingsError(what, hint="give another --url, like http://127.0.0.1:8000") from None


def find_target(service: BaseLLMService, model: str | None = None) -> Target:
    """Looks at a server, and chooses its model as a chat would.

    Raises:
        ProviderError: it is not there, or has no model.
    """
    models: list[ModelInfo] = []
    try:
        models = [one for one in run(service.list_models()) if not one.embeds]
    except Unreachable:
        raise
    except ProviderError:
        if model is None:
            raise
    run(service.warm_up())
    chosen = run(choose_model(service, model, insist=model is not None))
    status = run(service.check_connection())
    info = next((one for one in models if one.name == chosen.name), None)
    weights = info.quantization if info else None
    return Target(
        service, chosen.name, chosen.context_length, version=status.version, weights=weights
    )


@dataclass(frozen=True)
class Tokens:
    """How a server counts synthetic prompts: `fixed` of the template, `word` for each word."""

    fixed: float = 0.0
    word: float = 1.0
    measured: bool = False

    def words(self, tokens: int) -> int:
        """Words of a prompt of so many tokens."""
        return max(1, round((tokens - self.fixed) / self.word))


def probe(wire: Wire, target: Target, messages: Messages, **more: Any) -> Request:
    """Sends one prompt whose answer is one token."""
    limits: dict[str, Any] = {"max_tokens": 1} if "max_tokens" in wire.payload else {}
    options = wire.payload.get("options")
    if isinstance(options, dict):
        limits = {"options": options | {"num_predict": 1}}
    body = wire.payload | {"messages": [m.as_dict() for m in messages]} | limits | more
    request = Request(0)
    reader = reader_maker(wire.reader, wire.endpoint.who)()
    budgets = target.service.budgets
    run(exchange(request, wire.endpoint, wire.path, body, reader, budgets))
    return request


def count_tokens(target: Target) -> Tokens:
    """How the server counts: from two prompts of different length, where it tells."""
    wire = target.wire(1, exactly=False)
    counts: list[int] = []
    for words in _PROBES:
        request = probe(wire, target, synthetic(1, words, words)[0][0])
        if request.input_tokens is None:
            return Tokens()
        counts.append(request.input_tokens)
    per_word = (counts[1] - counts[0]) / (_PROBES[1] - _PROBES[0])
    if per_word <= 0:
        return Tokens()
    return Tokens(counts[0] - per_word * _PROBES[0], per_word, measured=True)


def takes_lengthening(target: Target) -> bool:
    """Whether the server takes `ignore_eos`; some refuse what they do not know."""
    extras = target.lengthening(exactly=True)
    if not extras:
        return False
    request = probe(target.wire(1, exactly=False), target, (Message("user", "Hello"),), **extras)
    return request.error != "rejected"


def off_the_gpu(target: Target) -> str | None:
    """Says how much of its model Ollama has in main memory; on a machine with a GPU it is slow."""
    if not isinstance(target.service, OllamaService):
        return None
    try:
        loaded = run(target.service.loaded())
    except ProviderError:
        return None
    for one in loaded:
        size, on_gpu = one.size_bytes, one.gpu_bytes
        if same_model(one.name, target.model) and size and on_gpu is not None and on_gpu < size:
            return (
                f"{target.label} has {1 - on_gpu / size:.0%} of its model in main memory and not "
                "on the GPU, whose memory others may hold: stop vLLM and measure Ollama alone"
            )
    return None
