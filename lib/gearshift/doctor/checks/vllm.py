"""vLLM: is the server healthy, does it list its model, and does it write a token?"""

from __future__ import annotations

import time

from gearshift.doctor.checks._base import Finding, Machine, failed, passed, unknown, warning
from gearshift.errors import (
    NotAnLLMServer,
    Overloaded,
    ProviderError,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from gearshift.providers import run
from gearshift.providers.vllm import VLLMService

_TOKEN_SECONDS = 8.0


def check_vllm(machine: Machine) -> Finding:
    """Does vLLM answer at `VLLM_BASE_URL`, is its engine alive, and which model does it serve?"""
    service = VLLMService(machine.settings)
    try:
        models = [model.name for model in run(service.list_models())]
    except Unreachable as wrong:
        return _unreachable(machine, wrong)
    except ProviderError as wrong:
        slow = isinstance(wrong, (Overloaded, TimedOut))
        found = failed if machine.wants_vllm and not slow else warning
        return found(wrong.message, f"{wrong.hint}; see its log: gearshift logs")
    if (sick := _sick(service)) is not None:
        slow = isinstance(sick, TimedOut)  # but not Overloaded: a dead engine says 503
        found = failed if machine.wants_vllm and not slow else warning
        return found(
            f"vLLM's health check fails: {sick.message}",
            "its log says why (gearshift logs); end it and start it again: gearshift stop",
        )
    record = machine.our_server(service.url)
    if record is not None and record.model not in models:
        return failed(
            f"our server {record.name} should serve {record.model} and lists {', '.join(models)}",
            f"gearshift stop {record.name}",
        )
    if not models:
        return warning("vLLM answers and serves no model", "gearshift serve MODEL")
    state = run(service.check_connection())
    said = f"vLLM {state.version or '?'} {state.detail}"
    if state.outdated:
        return warning(said, "gearshift engine install, or: uv pip install --upgrade vllm")
    return passed(said)


def _sick(service: VLLMService) -> ProviderError | None:
    """Why the health check fails, if it does."""
    try:
        run(service.check_health())
    except NotAnLLMServer:  # a proxy that lets `/v1` through only, or another kind of server
        return None
    except ProviderError as wrong:
        return wrong
    return None


def _unreachable(machine: Machine, wrong: ProviderError) -> Finding:
    """Nothing listens there, which is a fault only if people are to be answered from there."""
    model = machine.settings.default_model
    start = "gearshift status; start a server: gearshift serve MODEL"
    if machine.our_server(machine.settings.vllm_base_url) is not None:
        return unknown("our server is still starting", "gearshift logs -f")
    if machine.wants_vllm:
        return failed(
            f"LLM_PROVIDER is vllm, and {wrong.message}",
            f"{start}; or go back to Ollama with {model}: gearshift switch ollama",
        )
    return unknown(f"no vLLM runs ({wrong.message})", f"if you want one: {start}")


def check_vllm_token(machine: Machine) -> Finding:
    """Does it write one token in a chat?"""
    budgets = {"first_token_timeout": _TOKEN_SECONDS, "total_timeout": _TOKEN_SECONDS}
    service = VLLMService(machine.settings.model_copy(update=budgets))
    try:
        models = run(service.list_models())
        if not models:
            return unknown("vLLM serves no model", "gearshift serve MODEL")
        started = time.monotonic()
        run(service.generate("Hello", models[0].name, max_tokens=1))
    except Unreachable as absent:
        start = "start a server: gearshift serve MODEL"
        return unknown(f"vLLM cannot be asked: {absent.message}", start)
    except Unauthorized as wrong:
        return unknown(f"vLLM cannot be asked: {wrong.message}", "gearshift providers")
    except (TimedOut, Overloaded) as slow:
        return warning(
            f"no token came: {slow.message}", "see what it does: gearshift status --metrics"
        )
    except ProviderError as wrong:
        found = failed if machine.wants_vllm else warning
        return found(f"no token came: {wrong.message}", f"{wrong.hint}: gearshift logs")
    return passed(f"{models[0].name} wrote a token within {time.monotonic() - started:.2f} s")
