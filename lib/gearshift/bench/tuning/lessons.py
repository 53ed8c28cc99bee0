"""What is known not to work before it is started: by the checks, the fit plan, and what failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gearshift.bench.tuning.space import Space
from gearshift.bench.tuning.trial import Setting
from gearshift.doctor.recogniser import Report
from gearshift.doctor.starts import corrected
from gearshift.engine.checks import Status, run_checks
from gearshift.engine.forecast import of_launch
from gearshift.engine.launch import Launch
from gearshift.engine.start import Start
from gearshift.errors import EngineError

_SWITCHES = ("chunked_prefill", "prefix_caching")
_KV = {"auto": 2}  # all others take less


def why_not(start: Start, space: Space, is_default: bool) -> str | None:
    """Why a setting cannot work, `None` if nothing speaks against it.

    vLLM's defaults are started even where the plan has its doubts: what they are worth is to be
    known.
    """
    launch = start.plan.launch
    if why := _contradiction(launch, space):
        return why
    for check in run_checks(start.plan, ask_hub=False):
        if check.status is Status.REFUSED and check.name != "port":
            return f"{check.message} ({check.hint})" if check.hint else check.message
    if is_default or launch.cpu or start.plan.model.config is None or not start.plan.gpus.gpus:
        return None
    try:
        gpus = start.plan.gpus.gpus
        used = tuple(gpu for gpu in gpus if str(gpu.index) in launch.gpus) or gpus
        found, _ = of_launch(launch, start.plan.model.config, used, start.plan.settings)
    except EngineError:
        return None
    return f"the plan: {'; '.join(found.reasons)}" if found.fits is False else None


def _contradiction(launch: Launch, space: Space) -> str | None:
    """What vLLM's scheduler refuses (vllm/config/scheduler.py, 0.32)."""
    sequences = launch.max_num_seqs or space.defaults.get("max_num_seqs")
    batched = launch.max_num_batched_tokens or space.defaults.get("max_num_batched_tokens")
    length = launch.max_model_len or space.defaults.get("max_model_len")
    if sequences and batched and batched < sequences:
        return f"a step of {batched} tokens is too small for {sequences} sequences"
    explicit = launch.max_num_batched_tokens
    if launch.chunked_prefill is False and explicit and length and explicit < length:
        return (
            f"without chunked prefill a whole prompt ({length} tokens) has to fit into a step "
            f"({explicit})"
        )
    return None


@dataclass(frozen=True)
class Lesson:
    """A start that failed, and what would have to be otherwise.

    Attributes:
        changes: The values that the doctor's fix has, of those that are searched over.
    """

    setting: Setting
    changes: Setting
    cause: str

    def forbids(self, other: Setting, space: Space) -> bool:
        """Whether another setting fails for the same reason: it asks for as much, or more."""
        if not self.changes:
            return False
        mine = dict(zip(_names(space), space.key(self.setting), strict=True))
        theirs = dict(zip(_names(space), space.key(other), strict=True))
        for name, better in self.changes.items():
            if not _at_least_as_bad(mine[name], theirs[name], better):
                return False
        return all(
            self._asks_as_much(name, mine[name], theirs[name])
            for name in mine
            if name not in self.changes
        )

    def _asks_as_much(self, name: str, mine: Any, theirs: Any) -> bool:
        if mine == theirs or mine is None or theirs is None:
            return bool(mine == theirs)
        if name in _SWITCHES:
            return False
        if name == "kv_cache_dtype":
            return _KV.get(theirs, 1) >= _KV.get(mine, 1)
        if name == "tensor_parallel":
            return bool(theirs <= mine)
        if name == "memory_utilization":  # more of it is more room for a cache that was too small
            return bool(theirs <= mine) if "max_model_len" in self.changes else bool(theirs >= mine)
        return bool(theirs >= mine)


def _names(space: Space) -> list[str]:
    return [one.name for one in space.parameters]


def _at_least_as_bad(failed: Any, other: Any, better: Any) -> bool:
    if not all(isinstance(value, (int, float)) for value in (failed, other, better)):
        return bool(other == failed)
    return bool(other >= failed) if better < failed else bool(other <= failed)


def learn(launch: Launch, setting: Setting, report: Report, space: Space) -> Lesson:
    """The lesson of a failed start."""
    cause = str(report.causes[0].cause) if report.causes else "unknown"
    better = corrected(launch, report.causes[0]) if report.causes else None
    changes = {}
    if better is not None:
        for one in space.parameters:
            value = getattr(better, one.name)
            if value != getattr(launch, one.name) and value is not None:
                changes[one.name] = value
    return Lesson(setting, changes, cause)


def correction(lesson: Lesson, space: Space) -> Setting | None:
    """The setting that the fix asks for, of those that are searched; `None` if there is none."""
    if not lesson.changes:
        return None
    found = dict(lesson.setting)
    for one in space.parameters:
        if one.name not in lesson.changes:
            continue
        better = lesson.changes[one.name]
        failed = lesson.setting.get(one.name, one.default)
        down = isinstance(failed, (int, float)) and better < failed
        choices = [c for c in one.choices if (c <= better if down else c >= better)]
        if not choices:
            return None
        found[one.name] = choices[-1] if down else choices[0]
    return found
