"""The guide's scenarios: who asks how many at once, and of which servers.

Each is measured on Ollama as it comes, on Ollama with `OLLAMA_NUM_PARALLEL` for the most people of
the scenario (where its program is on this machine), on vLLM and on the embedded model: one after
the other, but all of them stay loaded. Where they share a GPU, the notes say what that has done to
Ollama.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gearshift.bench.crossover import crossover
from gearshift.bench.ollama_tuned import tuned_ollama
from gearshift.bench.records import record
from gearshift.bench.series import Series, Wish
from gearshift.bench.target import Target, find_service, find_target
from gearshift.errors import GearshiftError
from gearshift.providers import same_model

TUNED = "ollama tuned"
"""What the second Ollama is called in `skipped`."""


@dataclass(frozen=True)
class Scenario:
    """A preset; `users` are the numbers of people at once."""

    title: str
    what: str
    users: tuple[int, ...]
    providers: tuple[str, ...] = ("ollama", "vllm", "embedded")


SCENARIOS = {
    "one": Scenario("One user", "One person asks one question after the other.", (1,)),
    "ten": Scenario("Ten at once", "Ten people ask at the same time.", (10,)),
    "many": Scenario(
        "Many users on several GPUs",
        "Ten, fifty and a hundred people. The embedded model is not for that.",
        (10, 50, 100),
        ("ollama", "vllm"),
    ),
    "crossover": Scenario(
        "Where vLLM pays",
        "From one person to twenty: at how many is vLLM the faster one on this machine?",
        (1, 2, 5, 10, 20),
    ),
}


@contextmanager
def scenario_series(
    name: str, wish: Wish, model: str | None = None, providers: Sequence[str] | None = None
) -> Iterator[Series]:
    """The series of a scenario, on all of its servers that are there; `skipped` says which are not.

    Args:
        wish: How each run is measured; its `users` are replaced by the scenario's.
        providers: These alone.

    Raises:
        GearshiftError: none of its servers is there.
    """
    scenario = SCENARIOS[name]
    targets: list[Target] = []
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        for provider in providers or scenario.providers:
            try:
                target = find_target(find_service(provider), model)
            except GearshiftError as absent:
                skipped[provider] = absent.message
                continue
            targets.append(target)
            if provider == "ollama":
                try:
                    parallel = max(scenario.users)
                    targets.append(stack.enter_context(tuned_ollama(target, parallel)))
                except GearshiftError as absent:
                    skipped[TUNED] = absent.message
        if not targets:
            why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            raise GearshiftError(f"there is nothing to measure: {why}", hint="start a server")
        wish = replace(wish, users=scenario.users)
        yield Series(wish, targets, skipped=skipped, scenario=name)


def finished(series: Series) -> dict[str, Any]:
    """The record of a series, with what it says about the servers beside each other."""
    found = record(series)
    name = series.scenario
    return found | {
        "title": SCENARIOS[name].title if name else None,
        "crossover": crossover(found) if len(series.targets) > 1 else None,
        "unlike": unlike(series.targets),
    }


def unlike(targets: Sequence[Target]) -> str | None:
    """Says where models or weights are not the same: then not only the servers differ."""
    first = targets[0]
    if not all(same_model(one.model, first.model) for one in targets[1:]):
        return "not the same model: " + ", ".join(f"{one.label} has {one.model}" for one in targets)
    if len({one.weights for one in targets}) > 1:
        told = (f"{one.label} {one.weights or 'does not say'}" for one in targets)
        return "not the same weights: " + ", ".join(told)
    return None
