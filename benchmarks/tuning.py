"""`gearshift tune` beside a full grid: how near to the best, with how many starts?

On the real vLLM of `.engine` (made by `make test`), on the processor, with a tiny model of random
weights: a grid of four numbers of sequences by three of tokens in a step. Each of its twelve
servers is measured beside one with vLLM's defaults that runs all the time, taking turns with as
many people: what else the machine does meets both. A setting's figure is the median of these
ratios, in answers a second that are within the goals. Then `tune` searches the same grid with as
many people and four starts, knowing nothing of that; what it recommends is looked up in the table,
and measured once more beside the best of it. One search may be lucky: so the choice of settings is
also played many times on the table, its loads drawn from those that were measured.

    python benchmarks/tuning.py FILE [PAIRS]

FILE keeps every server that was measured, and a second run goes on there. On two quiet cores it
takes about an hour.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_models  # noqa: E402
from gearshift.bench import Wish, parse_goals  # noqa: E402
from gearshift.bench.metrics import confidence_interval  # noqa: E402
from gearshift.bench.target import Target  # noqa: E402
from gearshift.bench.tuning import Aim, Point, keep, open_tuning, tune  # noqa: E402
from gearshift.bench.tuning.measure import once, warm  # noqa: E402
from gearshift.bench.tuning.result import recommended  # noqa: E402
from gearshift.bench.tuning.retest import Round  # noqa: E402
from gearshift.bench.tuning.server import free_port, prepared, running  # noqa: E402
from gearshift.bench.tuning.space import Space  # noqa: E402
from gearshift.bench.tuning.study import Study  # noqa: E402
from gearshift.bench.tuning.trial import Outcome, Setting, best_of  # noqa: E402
from gearshift.engine import environment  # noqa: E402
from gearshift.engine.profiles import in_words  # noqa: E402
from gearshift.settings import Settings  # noqa: E402

SEQUENCES = (4, 16, 64, 128)
TOKENS = (256, 1024, 4096)
PEOPLE = 48
GOALS = "p95 ttft < 2"
REQUESTS = 480
LOAD = Wish(requests=REQUESTS, input_tokens=400, output_tokens=32)
STARTS = 4
# The search has one load for each setting, which is as long as three of the grid's eight.
LONGER = 3
GAMES = 500


Choose = Callable[[Study, random.Random], Setting]


def wanted(model: Path) -> Aim:
    values = "/".join(map(str, SEQUENCES)), "/".join(map(str, TOKENS))
    words = "max-num-seqs={}, max-num-batched-tokens={}, max-model-len=2048".format(*values)
    goals = parse_goals(GOALS)
    return Aim(str(model), goals, words, LOAD, starts=STARTS, first=PEOPLE, most=PEOPLE)


def quiet(_: Any) -> None:
    pass


def measure_grid(aim: Aim, settings: Settings, pairs: int, file: Path) -> dict[str, Any]:
    """For each setting its own figures and those of the defaults beside it."""
    space = open_tuning(aim, settings).space
    never = threading.Event()
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    order = [one for one in space.settings() if in_words(one) not in found]
    random.Random(1).shuffle(order)
    if not order:
        return found
    beside = prepared(aim, space.fixed, free_port(), settings)
    with running(beside, settings, never, quiet) as (_, defaults):
        warm_through(defaults, aim)
        for setting in order:
            began = time.monotonic()
            start = prepared(aim, setting, free_port(), settings)
            with running(start, settings, never, quiet) as (_, target):
                start_s = time.monotonic() - began
                warm_through(target, aim)
                ours, theirs = take_turns(aim, target, defaults, pairs)
            row = {"setting": setting, "start_s": start_s, "load_average": os.getloadavg()[1]}
            row |= {"own": list(map(asdict, ours)), "defaults": list(map(asdict, theirs))}
            found[in_words(setting)] = row
            file.write_text(json.dumps(found, indent=1), "utf-8")
            print(f"{in_words(setting)}: {ratios(row)}", file=sys.stderr, flush=True)
    return found


def warm_through(target: Target, aim: Aim) -> None:
    """A whole run that does not count: after a few requests alone a server is still slower."""
    warm(target, aim, threading.Event())
    once(target, aim, PEOPLE, threading.Event(), quiet, 0)


def take_turns(
    aim: Aim, target: Target, defaults: Target, pairs: int
) -> tuple[list[Point], list[Point]]:
    """The setting and the defaults, the defaults and the setting, and so on."""
    ours: list[Point] = []
    theirs: list[Point] = []
    for pair in range(pairs):
        turns = [(target, ours), (defaults, theirs)]
        for who, into in turns if pair % 2 == 0 else turns[::-1]:
            found = once(who, aim, PEOPLE, threading.Event(), quiet, pair)  # both the same
            if found.failed:
                raise RuntimeError(f"{found.failed} requests failed")
            into.append(found)
    return ours, theirs


def ratios(row: dict[str, Any]) -> list[float]:
    """Answers in time, the setting's by those of the defaults beside it."""
    pairs = zip(row["own"], row["defaults"], strict=True)
    return [Round.of({"best": mine, "default": other}).ratio for mine, other in pairs]


def beside(
    aim: Aim, setting: Setting, other: Setting, settings: Settings, pairs: int
) -> list[float]:
    """What one setting gives by what the other does, pair by pair."""
    never = threading.Event()
    one, two = (prepared(aim, each, free_port(), settings) for each in (setting, other))
    with (
        running(one, settings, never, quiet) as (_, mine),
        running(two, settings, never, quiet) as (_, theirs),
    ):
        for target in (mine, theirs):
            warm_through(target, aim)
        pair = take_turns(aim, mine, theirs, pairs)
    rows = [Round.of({"best": asdict(a), "default": asdict(b)}) for a, b in zip(*pair, strict=True)]
    return [row.ratio for row in rows]


def settings_of(words: str, aim: Aim, settings: Settings) -> Setting:
    space = open_tuning(aim, settings).space
    return next(one for one in space.settings() if in_words(one) == words)


def told(seen: list[float]) -> str:
    low, high = confidence_interval(seen) or (min(seen), max(seen))
    return f"{statistics.median(seen):.2f} ({low:.2f} to {high:.2f})"


def show_grid(found: dict[str, Any]) -> dict[str, float]:
    """The table; the figure of each setting."""
    figures = {words: statistics.median(ratios(row)) for words, row in found.items()}
    print(f"\nanswers in time by those of vLLM's defaults (128, 2048), {PEOPLE} people at once:")
    print("median and 95 % interval\n")
    print(
        "| max-num-seqs | " + " | ".join(f"{tokens} tokens in a step" for tokens in TOKENS) + " |"
    )
    print("|---" * (len(TOKENS) + 1) + "|")
    for sequences in SEQUENCES:
        cells = []
        for tokens in TOKENS:
            row = next(
                r for r in found.values()
                if (r["setting"]["max_num_seqs"], r["setting"]["max_num_batched_tokens"])
                == (sequences, tokens)
            )  # fmt: skip
            seen = ratios(row)
            cells.append(told(seen) + ("" if counts(row) else " \\*"))
        print(f"| {sequences} | " + " | ".join(cells) + " |")
    print("\n\\* in most runs the client was woken too late on these cores: not counted by `tune`")
    return figures


def play(
    found: dict[str, Any], figures: dict[str, float], space: Space, choose: Choose, seed: int
) -> float:
    """A search on the table with four starts; what it finds, by the best there is."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "played.jsonl", space, seed)
        begin = [setting for _, setting in space.beginnings()]
        while study.starts < STARTS:
            setting = begin.pop(0) if begin else choose(study, dice)
            trial = study.begin("played", setting)
            row = found.get(in_words(setting))
            seen = ratios(row) if row else [1.0]  # that of vLLM's defaults, by definition
            drawn = statistics.mean(dice.choice(seen) for _ in range(LONGER))
            trial.points = [Point(PEOPLE, True, 0.5, {}, drawn, drawn, REQUESTS, 0, 1.0)]
            trial.outcome = Outcome.MEASURED
            trial.settle()
            study.close(trial)
    best = best_of(study.trials)
    assert best is not None
    return figures.get(in_words(best.setting), 1.0) / max(figures.values())


def by_promise(study: Study, dice: random.Random) -> Setting:
    setting = study.suggest(lambda setting: False)
    assert setting is not None
    return setting


def by_lot(study: Study, dice: random.Random) -> Setting:
    return dice.choice([s for s in study.space.settings() if study.tried(s) is None])


def counts(row: dict[str, Any]) -> bool:
    """Whether at least half of a setting's own runs are valid."""
    return 2 * sum(point["invalid"] is None for point in row["own"]) >= len(row["own"])


def main() -> None:
    file, pairs = Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 8
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its servers, too
    python = environment.python(Settings(home=ROOT / ".engine", _env_file=None))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GEARSHIFT_HOME"] = f"{folder}/home"  # supervisors read it
        os.environ["GEARSHIFT_VLLM_PYTHON"] = str(python)
        settings = Settings(_env_file=None)
        aim = wanted(tiny_models.make(tiny_models.CHAT, python, Path(folder) / "tiny"))
        found = measure_grid(aim, settings, pairs, file)
        figures = show_grid(found)
        best = max(figures, key=figures.__getitem__)
        space = open_tuning(aim, settings).space
        for name, choose in (("as tune does", by_promise), ("by lot", by_lot)):
            near = [play(found, figures, space, choose, seed) >= 0.95 for seed in range(GAMES)]
            share = f"{statistics.mean(near):.0%} end within 5 % of the best"
            print(f"{GAMES} searches played on the table, {name}: {share}")
        print(f"\nthe best of the grid: {best}, {figures[best]:.2f}, after {len(figures)} starts")
        longer = replace(aim, load=replace(LOAD, requests=LONGER * REQUESTS))
        tuning = tune(open_tuning(longer, settings), settings)
        result = keep(tuning, settings)
        for trial in result["trials"]:
            print(f"  {trial['outcome']}: {trial['words']}: {trial['goodput_per_s']} in time/s")
        print(result["sentence"])
        proven = recommended(tuning)
        if tuning.best is None or proven is None:
            raise SystemExit("tune found nothing")
        for what, setting in (("the best of the search", tuning.best.setting), ("proven", proven)):
            figure = figures.get(in_words(setting), 1.0)  # that of vLLM's defaults, by definition
            print(f"{what}: {in_words(setting)}, {figure:.2f} in the table, ", end="")
            print(f"{figure / figures[best]:.1%} of the best")
        print(f"after {tuning.starts} starts, and {1 + len(tuning.rounds)} more for the proof")
        if in_words(proven) != best:
            seen = beside(aim, proven, settings_of(best, aim, settings), settings, pairs)
            print(f"beside the best again, {len(seen)} pairs: {told(seen)}")


if __name__ == "__main__":
    main()
