"""Where vLLM begins to pay: from how many people on it writes more tokens a second than all others.

Beside it stand the servers that have its model. Where none has, they all do, and it is said that
not only the servers differ then.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from gearshift.bench.report import label
from gearshift.providers import same_model

_VLLM = "vllm"
_Speeds = dict[int, dict[str, float | None]]


def crossover(record: dict[str, Any]) -> dict[str, Any] | None:
    """From the record of a series: `users` and a sentence.

    `users` is the smallest number of people from which on vLLM is faster at every larger one that
    was measured, `None` where there is none; no answer at all unless several numbers of people
    were measured. A server whose requests all failed has written 0 tokens a second; one that was
    not measured at a number of people, or not validly, leaves that number open.
    """
    speeds = _speeds(record)
    if len(speeds) < 2:
        return None
    models = {label(run): run["model"] for run in record["runs"]}
    others = [name for name in models if name != _VLLM]
    if _VLLM not in models or not others:
        missing = "vLLM" if _VLLM not in models else "Another server"
        return _answer(
            None, f"{missing} was not measured here, so where vLLM begins to pay is open."
        )
    alike = [name for name in others if same_model(models[name], models[_VLLM])]
    remarks = _unlike(models, others, alike)
    rows = {
        users: {name: row.get(name) for name in (_VLLM, *(alike or others))}
        for users, row in speeds.items()
    }
    known = {
        users: {name: speed for name, speed in row.items() if speed is not None}
        for users, row in rows.items()
        if None not in row.values()
    }
    if unknown := sorted(rows.keys() - known.keys()):
        remarks.append(f"With {_listed(unknown)} not all of them could be measured.")
    if not known:
        return _answer(None, " ".join(["Where vLLM begins to pay is open.", *remarks]))
    users, sentence, place = _found(known)
    remarks.append(_chance(record, known[place], place))
    if record["cancelled"]:
        remarks.append("It was cancelled: more people were to come.")
    return _answer(users, " ".join(filter(None, [sentence, *remarks])))


def _answer(users: int | None, sentence: str) -> dict[str, Any]:
    return {"users": users, "sentence": sentence}


def _speeds(record: dict[str, Any]) -> _Speeds:
    """For each number of people the median speed of each server, `None` where no run counts."""
    runs: dict[int, dict[str, list[float]]] = {}
    for run in record["runs"]:
        if run["concurrency"] is None or run["cancelled"]:
            continue
        valid = runs.setdefault(run["concurrency"], {}).setdefault(label(run), [])
        if not run["invalid"]:
            valid.append(run["output_tokens_per_s"] or 0.0)
    return {
        users: {name: median(valid) if valid else None for name, valid in row.items()}
        for users, row in runs.items()
    }


def _unlike(models: dict[str, str], others: list[str], alike: list[str]) -> list[str]:
    if not alike:
        told = ", ".join(f"{name} has {models[name]}" for name in (_VLLM, *others))
        return [f"They do not have the same model ({told}), so that not only the servers differ."]
    left_out = [name for name in others if name not in alike]
    return [f"Left out, with another model: {', '.join(left_out)}."] if left_out else []


def _found(speeds: dict[int, dict[str, float]]) -> tuple[int | None, str, int]:
    """From where on it pays, the sentence, and the number of people that it speaks of."""
    pays = None
    for users in sorted(speeds, reverse=True):
        if not _is_fastest(speeds[users]):
            break
        pays = users
    most = max(speeds)
    if pays is None:
        told = (
            f"On this machine vLLM does not pay, up to {most} people at once: "
            f"{_beside(speeds[most])} there."
        )
        return None, told, most
    if pays == min(speeds):
        told = (
            "On this machine vLLM is the faster one at every number of people that was measured, "
            f"from {pays} on: {_beside(speeds[pays])}."
        )
        return pays, told, pays
    told = f"On this machine vLLM pays from {pays} people at once on: {_beside(speeds[pays])}."
    return pays, told, pays


def _is_fastest(row: dict[str, float]) -> bool:
    return row[_VLLM] > row[_rival(row)]


def _rival(row: dict[str, float]) -> str:
    return max((name for name in row if name != _VLLM), key=row.__getitem__)


def _beside(row: dict[str, float]) -> str:
    rival = _rival(row)
    return f"{row[_VLLM]:.0f} tokens a second beside {row[rival]:.0f} of {rival}"


def _chance(record: dict[str, Any], row: dict[str, float], users: int) -> str:
    """How much of it may be chance."""
    intervals = {
        one["target"]: one["output_tokens_per_s"]["confidence_interval"]
        for one in record["summary"]
        if one["concurrency"] == users
    }
    ours, theirs = intervals.get(_VLLM), intervals.get(_rival(row))
    if not ours or not theirs:
        return "Each was measured once or twice, so that a small difference may be chance."
    if ours[0] <= theirs[1] and theirs[0] <= ours[1]:
        return "Their 95 % intervals overlap there, so that it may be chance."
    return ""


def _listed(numbers: list[int]) -> str:
    return f"{', '.join(map(str, numbers))} people"
