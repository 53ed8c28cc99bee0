"""What a search has found: in JSON, in a sentence, as a command, and as a profile for `serve`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from gearshift.bench import machine
from gearshift.bench.metrics import parse_goals
from gearshift.bench.series import Wish
from gearshift.bench.tuning.aim import Aim, slug
from gearshift.bench.tuning.alone import folder
from gearshift.bench.tuning.retest import Gain, gain, kept
from gearshift.bench.tuning.server import prepared
from gearshift.bench.tuning.trial import Outcome, Setting, Trial
from gearshift.bench.tuning.tune import Tuning
from gearshift.engine.export import serve_command
from gearshift.engine.profiles import Profile, in_words
from gearshift.engine.profiles import keep as keep_profile
from gearshift.errors import GearshiftError
from gearshift.settings import Settings, port_of


class Verdict(StrEnum):
    """What the figures allow to say."""

    BETTER = "better"
    DEFAULT = "default"  # vLLM's defaults are fine
    UNPROVEN = "unproven"  # too few rounds to tell, or it has not come to its end
    ONLY = "only"  # the defaults do not start, or break under load
    NONE = "none"  # no setting holds the goals


def verdict(tuning: Tuning) -> tuple[Verdict, Gain | None]:
    """The verdict, and the gain over the defaults where it was measured."""
    best, default = tuning.best, tuning.default
    found = gain(tuning.rounds)
    if not tuning.complete:
        return Verdict.UNPROVEN, found
    if best is None:
        return Verdict.NONE, None
    if best is default:
        others = [t for t in tuning.trials if t is not default and t.points]
        return (Verdict.DEFAULT, Gain(0.0, None)) if others else (Verdict.UNPROVEN, None)
    if default is None or default.outcome is not Outcome.MEASURED:
        return Verdict.ONLY, found
    if found is None or found.interval is None:
        return Verdict.UNPROVEN, found
    return (Verdict.BETTER if found.certain else Verdict.DEFAULT), found


def sentence(tuning: Tuning) -> str:
    """The result in words."""
    what, found = verdict(tuning)
    best, default = tuning.best, tuning.default
    if not tuning.complete:
        return f"The search has not come to its end: {_so_far(tuning)}."
    if best is None:
        return f"No setting holds {_goals(tuning)} with one person{_nearest(tuning)}."
    people = f"{best.users} {'person' if best.users == 1 else 'people'} at once"
    words = in_words(best.setting)
    if what is Verdict.ONLY:
        return f"{words} holds {_goals(tuning)} with {people}; vLLM's defaults do not work."
    if what is Verdict.UNPROVEN and best is default:
        return f"vLLM's defaults hold {_goals(tuning)} with {people}; nothing else was measured."
    if best is default:
        fine = f"vLLM's defaults are fine: of {tuning.starts} settings none is better ({people})."
        limit = f" More than {best.users} were not tried (--max-users)."
        return fine + (limit if best.users >= tuning.aim.most else "")
    if found is None or found.interval is None:
        return f"{words} was the best in the search ({people}); whether by chance is not proven."
    told = _told(found.gain, *found.interval)
    if what is Verdict.BETTER:
        return f"{words}: {told} beside vLLM's defaults, with {people}."
    nothing = ", which may be nothing" if found.interval[1] >= 0 else ""
    return f"vLLM's defaults are fine: beside them, {words} gives {told}{nothing}."


def _so_far(tuning: Tuning) -> str:
    best = tuning.best
    if best is None:
        measured = any(trial.points for trial in tuning.trials)
        return "nothing holds the goals so far" if measured else "nothing was measured"
    people = f"{best.users} {'person' if best.users == 1 else 'people'} at once"
    return f"the best so far is {in_words(best.setting)} ({people})"


def _told(gain: float, low: float, high: float) -> str:
    """As percents more, or as times where that is easier to read."""
    if gain < 1:
        return f"{gain:+.0%} answers in time (95 %: {low:+.0%} to {high:+.0%})"
    return f"{gain + 1:.1f} times the answers in time (95 %: {low + 1:.1f} to {high + 1:.1f})"


def _goals(tuning: Tuning) -> str:
    return ", ".join(map(str, tuning.aim.goals))


def _nearest(tuning: Tuning) -> str:
    """What one person met with at best; of a load that was ended early, at least that."""
    first = str(tuning.aim.goals[0])
    points = [
        (value, point, trial)
        for trial in tuning.trials
        for point in trial.points
        if point.users == 1 and (value := point.figures.get(first)) is not None
    ]
    if not points:
        return ""
    _, point, trial = min(points, key=lambda one: one[0])
    known = ((goal, value) for goal, value in point.figures.items() if value is not None)
    figures = ", ".join(f"{goal}: {value:.3g} s" for goal, value in known)
    return f"; the nearest was {in_words(trial.setting)} ({figures})"


def recommended(tuning: Tuning) -> Setting | None:
    """The values to serve with: vLLM's own where the proof says so, else the winner's."""
    what, _ = verdict(tuning)
    best = tuning.best
    if best is None:
        return None
    return tuning.space.fixed if what is Verdict.DEFAULT else best.setting


def figures(tuning: Tuning) -> dict[str, Any]:
    """What is known so far, as JSON."""
    what, found = verdict(tuning)
    best, default = tuning.best, tuning.default
    aim = tuning.aim
    return {
        "trials": [_row(trial) for trial in tuning.trials],
        "best": _row(best) if best else None,
        "default": _row(default) if default else None,
        "gain": found.gain if found else None,
        "confidence_interval": found.interval if found else None,
        "verdict": what,
        "sentence": sentence(tuning),
        "rounds": kept(tuning.rounds),
        "starts": tuning.starts,
        "cancelled": tuning.cancelled,
        "complete": tuning.complete,
        "name": tuning.name,
        "model": aim.model,
        "goals": [{"words": str(goal), "limit_s": goal.limit_s} for goal in aim.goals],
        "parameters": {one.name: list(one.choices) for one in tuning.space.parameters},
    }


def record(tuning: Tuning, settings: Settings, profile: str | None = None) -> dict[str, Any]:
    """Everything as JSON; `command` and `profile` are `None` where no setting holds the goals."""
    setting = recommended(tuning)
    return figures(tuning) | {
        "command": None if setting is None else _command(tuning, setting, settings),
        "profile": profile,
        "load": asdict(tuning.aim.load) | {"goals": []},
        "aim": asdict(tuning.aim) | {"load": None, "goals": list(map(str, tuning.aim.goals))},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
    }


def _row(trial: Trial) -> dict[str, Any]:
    return asdict(trial) | {"words": in_words(trial.setting)}


def _command(tuning: Tuning, setting: Setting, settings: Settings) -> list[str]:
    start = prepared(tuning.aim, setting, port_of(settings.vllm_base_url), settings)
    return serve_command(start.plan.launch)


def people_of(row: dict[str, Any]) -> str:
    """How many a trial's setting serves; of a loser only that it is fewer than it was asked for."""
    if row["outcome"] == Outcome.STOPPED:
        return f"< {min(point['users'] for point in row['points'] if not point['holds'])}"
    return str(row["users"]) if row["outcome"] == Outcome.MEASURED else "–"


def profile_name(tuning: Tuning) -> str:
    """What the profile is called when nobody says."""
    return f"tuned-{slug(tuning.aim.model)}"


def keep(tuning: Tuning, settings: Settings, name: str | None = None) -> dict[str, Any]:
    """Writes the record, and the profile when the search has come to its end; returns the record.

    Raises:
        GearshiftError: the disk refuses.
    """
    setting = recommended(tuning)
    made = None
    if setting is not None and tuning.complete:
        made = name or profile_name(tuning)
        keep_profile(_profile(tuning, made, setting), settings.home_dir)
    found = record(tuning, settings, made)
    path = folder(settings.home_dir) / f"{tuning.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(found), "utf-8")
        scratch.replace(path)
    except OSError as wrong:
        raise GearshiftError(f"the search cannot be kept: {wrong}", hint="make room") from None
    return found


def _profile(tuning: Tuning, name: str, setting: Setting) -> Profile:
    why = f"{tuning.name}: {sentence(tuning)}"
    return Profile(
        name=name, values=setting, reasons=dict.fromkeys(setting, why), model=tuning.aim.model
    )


def kept_names(home: Path) -> list[str]:
    """The searches that are kept, the newest first."""
    found = folder(home).glob("*.json")
    return [path.stem for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def load(name: str, home: Path) -> dict[str, Any]:
    """A kept record.

    Raises:
        GearshiftError: it cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads((folder(home) / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError) as wrong:
        raise GearshiftError(
            f"the search {name} cannot be read: {wrong}", hint="tune again"
        ) from None
    return found


def aim_of(found: dict[str, Any]) -> Aim:
    """The question that a kept record answers, to go on with it."""
    asked = dict(found["aim"])
    load = Wish(**found["load"] | {"users": tuple(found["load"]["users"]), "goals": ()})
    goals = parse_goals(", ".join(asked["goals"]))
    return Aim(**asked | {"load": load, "goals": goals, "gpus": tuple(asked["gpus"])})


def failed(tuning: Tuning) -> GearshiftError | None:
    """The error of a search that has ended and found nothing."""
    if not tuning.complete or tuning.best is not None:
        return None
    causes = {t.cause for t in tuning.trials if t.outcome is Outcome.FAILED and t.cause}
    more = f"; starts failed with {', '.join(sorted(causes))}" if causes else ""
    return GearshiftError(
        sentence(tuning).rstrip(".") + more,
        hint="ask for less (--slo), shorter prompts or answers, or take a smaller model",
    )
