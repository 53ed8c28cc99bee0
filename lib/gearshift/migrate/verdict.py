"""What a comparison says as a whole: a verdict with its reasons, kept as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gearshift.errors import EngineError
from gearshift.migrate.pairs import Alike, Pair
from gearshift.migrate.serving import plain_name
from gearshift.settings import Settings

_MOST = 0.8
"""Share of answers that have to be the same, or nearly, for a verdict of `near`."""


@dataclass(frozen=True)
class Verdict:
    """`same`, `near`, `different` or `unknown`, and why, in sentences."""

    verdict: Alike
    reasons: tuple[str, ...]


def judge(pairs: Sequence[Pair]) -> Verdict:
    """What the pairs say together."""
    prompts = Counter(pair.same_prompt for pair in pairs)
    answers = Counter(pair.alike for pair in pairs)
    reasons = [_about_prompts(pairs, prompts), _about_answers(pairs, answers)]
    both = [p.answers for p in pairs if p.alike is not Alike.UNKNOWN]
    for what, differ in (
        ("stop reasons", sum(a.finish_reason is not b.finish_reason for a, b in both)),
        ("citations", sum(a.citations != b.citations for a, b in both)),
        ("refusals", sum(a.refuses != b.refuses for a, b in both)),
    ):
        if differ:
            reasons.append(f"{what} differ in {differ} of {len(both)} answers")
    lengths = [(a.tokens, b.tokens) for a, b in both if a.tokens and b.tokens]
    if lengths:
        ollama, vllm = (sum(side) / len(lengths) for side in zip(*lengths, strict=True))
        reasons.append(
            f"answers have {ollama:.0f} tokens in Ollama and {vllm:.0f} in vLLM on average"
        )
    alike = answers[Alike.SAME] + answers[Alike.NEAR]
    if not both:
        found = Alike.UNKNOWN
    elif prompts[False]:
        found = Alike.DIFFERENT
    elif alike == len(pairs) and prompts[True] == len(pairs):
        found = Alike.SAME if answers[Alike.SAME] == len(pairs) else Alike.NEAR
    else:
        found = Alike.NEAR if alike >= _MOST * len(pairs) else Alike.DIFFERENT
    return Verdict(found, tuple(reasons))


def _about_prompts(pairs: Sequence[Pair], prompts: Counter[bool | None]) -> str:
    exact = sum(pair.same_prompt is True and pair.compared == "tokens" for pair in pairs)
    words = f"{prompts[True]} of {len(pairs)} prompts are the same in both"
    if exact:
        words += f", {exact} of them compared token by token"
    counted = sum(p.same_prompt is None and p.prompts[1].count is not None for p in pairs)
    if counted:
        words += f"; {counted} have as many tokens in both, which is all that Ollama tells of them"
    if prompts[False]:
        first = next(pair for pair in pairs if pair.same_prompt is False)
        words += f"; the first that is not: {first.difference}"
    return words


def _about_answers(pairs: Sequence[Pair], answers: Counter[Alike]) -> str:
    words = f"{answers[Alike.SAME]} of {len(pairs)} answers are the same to the letter"
    if answers[Alike.NEAR]:
        widest = max(p.widest_gap or 0.0 for p in pairs if p.alike is Alike.NEAR)
        words += (
            f"; {answers[Alike.NEAR]} differ where two tokens are nearly as likely (the widest gap "
            f"is {widest:.2f} nat), as rounding makes them"
        )
    if answers[Alike.DIFFERENT]:
        words += f"; {answers[Alike.DIFFERENT]} differ by more than that"
    if answers[Alike.UNKNOWN]:
        error = next(a.error for p in pairs for a in p.answers if a.error)
        words += f"; {answers[Alike.UNKNOWN]} have no whole answer ({error})"
    return words


def as_json(model: str, pairs: Sequence[Pair], speed: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a comparison; `speed` are runs of a benchmark."""
    found = judge(pairs)
    answers = Counter(pair.alike for pair in pairs)
    return {
        "model": model,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": found.verdict,
        "reasons": [*found.reasons, *_about_speed(speed)],
        "prompts_same": sum(pair.same_prompt is True for pair in pairs),
        "prompts_different": sum(pair.same_prompt is False for pair in pairs),
        "answers": {alike: answers[alike] for alike in Alike},
        "speed": speed,
        "pairs": [_pair_row(pair) for pair in pairs],
    }


def _about_speed(runs: list[dict[str, Any]]) -> list[str]:
    """A sentence for each number of people."""
    sentences = []
    for people in dict.fromkeys(run["concurrency"] for run in runs):
        told = [f"{run['provider']} {_rate(run)}" for run in runs if run["concurrency"] == people]
        who = "one person" if people == 1 else f"{people} people at once"
        sentences.append(f"with {who}: {', '.join(told)}")
    return sentences


def _rate(run: dict[str, Any]) -> str:
    if run["invalid"]:
        return f"could not be measured ({run['invalid']})"
    if not run["output_tokens_per_s"]:
        return f"gave no answer ({run['failed']} of {run['requests']} failed)"
    first = run["ttft_s"]["p50"]
    wait = "" if first is None else f", {first:.2f} s to the first one"
    return f"{run['output_tokens_per_s']:.0f} tokens a second{wait}"


def _pair_row(pair: Pair) -> dict[str, Any]:
    ollama, vllm = pair.prompts
    return {
        "question": pair.question.text,
        "messages": [message.as_dict() for message in pair.question.messages],
        "same_prompt": pair.same_prompt,
        "compared": pair.compared,
        "difference": pair.difference,
        "prompt_tokens": {"ollama": ollama.count, "vllm": vllm.count},
        "alike": pair.alike,
        "widest_gap": pair.widest_gap,
        "meaning": pair.meaning,
        "answers": {
            name: asdict(answer)
            for name, answer in zip(("ollama", "vllm"), pair.answers, strict=True)
        },
    }


def report_file(model: str, settings: Settings) -> Path:
    """Where the last report of a model is kept."""
    return settings.home_dir / "migration" / f"{plain_name(model)}.parity.json"


def keep(report: dict[str, Any], path: Path) -> None:
    """Writes a report in place of the one before.

    Raises:
        EngineError: it cannot be written (kind `disk`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(report, ensure_ascii=False, indent=1), "utf-8")
        scratch.replace(path)
    except OSError as problem:
        raise EngineError(
            "disk", f"{path} cannot be written: {problem.strerror}", "make room"
        ) from None


def kept(model: str, settings: Settings) -> dict[str, Any] | None:
    """The last report of a model; `None` if there is none that can be read."""
    try:
        report = json.loads(report_file(model, settings).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None
