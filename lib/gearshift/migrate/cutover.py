"""The cut-over: chats go to vLLM from now on, with Ollama behind it.

After the switch the server is watched: with requests of our own, and by what it counts of
everybody's. When more of them fail than before, the settings go back by themselves.

What it does not know: requests that never reach the server, but for those of our own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from prometheus_client.parser import text_string_to_metric_families

from gearshift.errors import EngineError, ProviderError
from gearshift.migrate.rollback import SETTING, roll_back, switch
from gearshift.providers import LLMServiceFactory, run
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.settings import Settings, environment_values

_PROBES = 3  # of ours that fail in a row, and it goes back
_LEAST = 5  # requests of everybody's, before their errors count
_BUDGET = 30.0  # seconds for one request of ours


@dataclass(frozen=True)
class Counts:
    """What happened to requests since the switch.

    Attributes:
        requests, failed: Of everybody's, ours among them, as the server counts them; `None` if it
            does not.
        probes, probes_failed: Of ours.
    """

    requests: int | None = None
    failed: int | None = None
    probes: int = 0
    probes_failed: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a cut-over ended.

    Attributes:
        active: Where chats go now.
        previous: Where they went before.
        fallback_ready: Whether Ollama would answer if vLLM did not.
        reason: Why it went back; `None` if it did not.
    """

    model: str
    active: str
    previous: str
    fallback_ready: bool
    watched_s: float
    counts: Counts
    reason: str | None = None


def cut_over(
    model: str,
    settings: Settings,
    watch_s: float,
    interval_s: float,
    most_errors: float,
    on_counts: Callable[[float, Counts], None],
) -> Outcome:
    """Makes vLLM the default, watches it, and goes back if requests fail.

    Args:
        model: The name that clients use, which vLLM has to answer to.
        watch_s: Seconds to watch.
        interval_s: Seconds between requests of ours.
        most_errors: Share of requests, 0 to 1, that may fail beyond what failed before.
        on_counts: Told after each request of ours: seconds since the switch, and the counts.

    Raises:
        EngineError: it was not begun, and nothing is changed (kind `cutover`).
        ProviderError: vLLM does not answer; nothing is changed.
    """
    vllm = VLLMService(settings)
    _check(model, vllm)
    fallback = run(OllamaService(settings).check_connection())
    previous = LLMServiceFactory.active()
    before = _tally(vllm)
    switch(model, previous, settings)
    started, counts, in_a_row, reason = time.monotonic(), Counts(), 0, None
    try:
        while reason is None and (passed := time.monotonic() - started) < watch_s:
            problem = _probe(vllm, model)
            in_a_row = in_a_row + 1 if problem else 0
            counts = _count(counts, problem, before, _tally(vllm))
            on_counts(passed, counts)
            reason = _why_back(counts, in_a_row, problem, before, most_errors)
            if reason is None:
                left = watch_s - (time.monotonic() - started)
                time.sleep(max(0.0, min(interval_s, left)))
    except KeyboardInterrupt:
        pass  # who stops watching keeps the switch; `watched_s` says for how long it was watched
    if reason is not None:
        roll_back(settings)
    active = LLMServiceFactory.active()
    watched = time.monotonic() - started
    return Outcome(model, active, previous, bool(fallback), watched, counts, reason)


def _check(model: str, vllm: VLLMService) -> None:
    set_to = environment_values().get(SETTING, "vllm").lower()
    if set_to != "vllm":
        raise EngineError(
            "cutover",
            f"{SETTING}={set_to} in the environment wins over .env, so nothing would change",
            f"unset {SETTING} in the environment",
        )
    names = [each.name for each in run(vllm.list_models())]
    if model not in names:
        raise EngineError(
            "cutover",
            f"vLLM answers to {', '.join(names) or 'no name'}, and not to {model}: clients would "
            "have to be changed",
            f"start it with: gearshift serve … --served-name={model}",
        )
    if problem := _probe(vllm, model):
        raise EngineError("cutover", f"vLLM does not answer a chat: {problem}", "gearshift doctor")


def _probe(vllm: VLLMService, model: str) -> str | None:
    """Why a chat of one token fails; `None` if it does not."""
    try:
        run(vllm.generate(prompt="Say yes.", model=model, max_tokens=1, temperature=0.0))
    except ProviderError as error:
        return error.message
    return None


def _tally(vllm: VLLMService) -> tuple[int, int] | None:
    """Chats and completions that the server has answered since its start, and those that failed."""
    try:
        text = run(vllm.metrics())
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    except (ProviderError, ValueError):
        return None
    answered = [
        (sample.labels.get("status", ""), sample.value)
        for sample in samples
        if sample.name == "http_requests_total"
        and sample.labels.get("handler", "").startswith("/v1/")
        and sample.labels.get("method") == "POST"
    ]
    failed = sum(value for status, value in answered if not status.startswith("2"))
    failed += sum(  # in mid-stream, when the status was told already
        sample.value
        for sample in samples
        if sample.name == "vllm:request_success_total"
        and sample.labels.get("finished_reason") == "error"
    )
    return int(sum(value for _, value in answered)), int(failed)


def _count(
    counts: Counts, problem: str | None, before: tuple[int, int] | None, now: tuple[int, int] | None
) -> Counts:
    if before is not None and now is not None and now[0] >= before[0]:
        counts = replace(counts, requests=now[0] - before[0], failed=now[1] - before[1])
    return replace(
        counts,
        probes=counts.probes + 1,
        probes_failed=counts.probes_failed + (problem is not None),
    )


def _why_back(
    counts: Counts,
    in_a_row: int,
    problem: str | None,
    before: tuple[int, int] | None,
    most_errors: float,
) -> str | None:
    if in_a_row >= _PROBES:
        return f"{in_a_row} requests in a row failed, the last one: {problem}"
    if counts.requests is None or counts.failed is None or counts.requests < _LEAST:
        return None
    usual = before[1] / before[0] if before and before[0] >= _LEAST else 0.0
    share = counts.failed / counts.requests
    if share <= usual + most_errors:
        return None
    return (
        f"{counts.failed} of {counts.requests} requests failed ({share:.0%}; before the switch "
        f"{usual:.0%})"
    )
