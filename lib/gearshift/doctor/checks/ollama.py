"""Ollama: is it there, with models, enough context, and on the GPU?"""

from __future__ import annotations

import shutil

import psutil

from gearshift.doctor.checks._base import Finding, Machine, failed, passed, unknown, warning
from gearshift.doctor.checks.system import in_container
from gearshift.engine.processes import port_owner
from gearshift.errors import Overloaded, ProviderError, TimedOut, Unreachable
from gearshift.providers import run
from gearshift.providers.ollama import OllamaService
from gearshift.schemas import LoadedModel
from gearshift.settings import is_loopback, port_of

_ENOUGH = 8192  # tokens: a prompt with its sources, and the answer
_DEFAULT = "OLLAMA_CONTEXT_LENGTH"
_START = "ollama serve"
_INSTALL = "curl -fsSL https://ollama.com/install.sh | sh"
_LONGER = (
    f"OLLAMA_CONTEXT_LENGTH={_ENOUGH} ollama serve, or as a service: sudo systemctl edit ollama "
    f'(Environment="OLLAMA_CONTEXT_LENGTH={_ENOUGH}"), then: sudo systemctl restart ollama'
)


def check_ollama(machine: Machine) -> Finding:
    """Does Ollama answer, and has it the model that chats go to?"""
    settings = machine.settings
    service = OllamaService(settings)
    try:
        models = [model.name for model in run(service.list_models()) if not model.embeds]
    except Unreachable as wrong:
        if settings.llm_provider != service.name:
            return unknown(f"Ollama does not run ({wrong.message})", f"if you want it: {_START}")
        if in_container():
            return warning(
                f"Ollama is chosen and does not answer ({wrong.message}); in a container that "
                "address means the container",
                "for the host's: export OLLAMA_BASE_URL=http://host.docker.internal:11434 "
                "GEARSHIFT_ALLOW_REMOTE=true, and start the container with "
                "--add-host=host.docker.internal:host-gateway",
            )
        if shutil.which("ollama") is None:
            return warning(
                "Ollama is chosen and not installed; the embedded model answers instead",
                f"{_INSTALL}; or choose another: gearshift switch embedded",
            )
        return warning(f"Ollama is chosen and does not run ({wrong.message})", _START)
    except ProviderError as wrong:
        slow = isinstance(wrong, (Overloaded, TimedOut))
        found = failed if settings.llm_provider == service.name and not slow else warning
        return found(wrong.message, f"{wrong.hint}; see: gearshift providers")
    pull = f"ollama pull {settings.default_model}"
    if not models:
        return warning("Ollama runs and has no model", pull)
    state = run(service.check_connection())
    said = f"Ollama {state.version or '?'}: {state.detail}"
    if state.outdated:
        return warning(said, _INSTALL)
    default = settings.default_model
    if default not in {name for model in models for name in (model, model.removesuffix(":latest"))}:
        return warning(f"{said}; DEFAULT_MODEL {default} is not among them ({models[0]} is)", pull)
    return passed(said)


def check_ollama_context(machine: Machine) -> Finding:
    """Do models run with a context that holds a prompt with its sources?"""
    loaded = _loaded(machine)
    if not isinstance(loaded, list):
        return loaded
    short = [model for model in loaded if (model.context or _ENOUGH) < _ENOUGH]
    if short:
        said = ", ".join(f"{model.name} with {model.context} tokens" for model in short)
        return warning(
            f"{said}: what is longer is cut without a word (Gearshift asks for {_ENOUGH} where "
            "its prompts need it, other programs do not)",
            _LONGER,
        )
    told = [f"{model.name}: {model.context} tokens" for model in loaded if model.context]
    if told:
        return passed(", ".join(told))
    configured = _configured(machine)
    if configured is not None:
        said = f"Ollama was started with {_DEFAULT}={configured}"
        if configured < _ENOUGH:
            return warning(f"{said}: what is longer is cut without a word", _LONGER)
        return passed(said)
    return unknown(
        "no loaded model tells its context; Ollama's default is 4096 tokens below 24 GiB of GPU "
        f"memory (Gearshift asks for {_ENOUGH} where its prompts need it)",
        _LONGER,
    )


def _configured(machine: Machine) -> int | None:
    """The default context by Ollama's own environment, where we may read it."""
    url = machine.settings.ollama_base_url
    owner = port_owner(port_of(url)) if is_loopback(url) else None
    try:
        value = psutil.Process(owner.pid).environ().get(_DEFAULT, "") if owner else ""
    except psutil.Error:
        return None
    return int(value) if value.isdigit() and int(value) else None


def check_ollama_gpu(machine: Machine) -> Finding:
    """Do the loaded models lie on the GPU as a whole? Layers on the processor are slow."""
    loaded = _loaded(machine)
    if not isinstance(loaded, list):
        return loaded
    if not loaded:
        return unknown("no model is loaded", 'load one and look again: ollama run mistral "Hello"')
    shares = [(model.name, model.gpu_share) for model in loaded if model.gpu_share is not None]
    said = ", ".join(f"{name} {share:.0%} on the GPU" for name, share in shares)
    if not shares:
        return unknown("Ollama does not tell where its models are", "ollama ps")
    if all(share >= 0.999 for _, share in shares):
        return passed(said)
    if not machine.gpus.gpus and all(share == 0 for _, share in shares):
        return passed(f"on the processor, as there is no GPU: {', '.join(n for n, _ in shares)}")
    return warning(
        f"{said}; the rest is computed on the processor, which is many times slower",
        "free GPU memory (ollama ps, ollama stop MODEL), shorten the context "
        "(OLLAMA_CONTEXT_LENGTH=4096 ollama serve) or take a smaller model: ollama pull mistral",
    )


def _loaded(machine: Machine) -> list[LoadedModel] | Finding:
    """What Ollama holds in memory, or that it does not say."""
    try:
        return run(OllamaService(machine.settings).loaded())
    except ProviderError as wrong:
        return unknown(f"Ollama cannot be asked: {wrong.message}", f"{_START}; ollama ps")
