"""How right the fit plan is: predicted beside what real start-ups have logged.

`python -m benchmarks.fit [ROWS.jsonl]`; without a file the start-ups of `data/startups.jsonl`. Each
row's model has to be in `data/model-shapes.json`. Rows of other models, and of what the plan does
not know (two kinds of cards, a context that ranks share, models that only embed), are counted and
left out; rows that do not name their GPU count where the GPU does not matter. The constants of
`engine/working_memory.py` are round numbers and were chosen with rows of this kind in sight, so a
fresh file is the fairer measure. More tables show how much they owe to single sources, and what one
earlier start-up on the same machine teaches:

- without its source: each row again, with the working memory moved by the median error of all rows
  but those of its own source. Constants that owe much to one source would do clearly better here.
- tokens of the real memory: the cache's arithmetic alone, from the memory that a log tells.
- in its range: how often the real memory lies in the range that the plan tells, without its source.
- after one start: each row that has another of the same source, GPU and version, corrected with it.
"""

import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from gearshift.data import DATA
from gearshift.engine import fit
from gearshift.engine.cards import find_card
from gearshift.engine.geometry import Geometry, read_geometry
from gearshift.engine.kv_cache import logged_tokens, make_pool
from gearshift.engine.learned import correction
from gearshift.engine.models import known_shapes
from gearshift.engine.setup import length_of
from gearshift.engine.startup_log import Startup


@dataclass
class Case:
    """A start-up that can be planned."""

    row: dict
    config: dict
    shape: Geometry
    setup: fit.Setup

    @property
    def source(self):
        """The machine or the thread that it is from."""
        return self.row["source"].split(" : ")[0].split("#")[0]

    def planned(self, **changes):
        return fit.plan(self.shape, replace(self.setup, **changes))


# Fine-tuned models, and what they are made of.
MADE_OF = {
    "scb10x/typhoon-ocr-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "typhoon-ai/typhoon-s-thaillm-8b-instruct-research-preview": "Qwen/Qwen3-8B",
}
NOT_KNOWN = ("decode_context_parallel", "several_cards", "pooling")


def read(row):
    """The case of a row, `None` where it does not tell enough, or more than the plan knows."""
    name = (row.get("model") or "").split(" (")[0]
    config = known_shapes().get(MADE_OF.get(name, name).lower())
    if config is None or any(row.get(key) for key in NOT_KNOWN):
        return None
    method = "fp8" if "fp8" in f"{row.get('quantization')} {row['model']}".lower() else None
    card = find_card(row["gpu"]) if row.get("gpu") else None
    kv = row.get("kv_cache_dtype")
    setup = fit.Setup(
        usable_gib=row.get("total_gib_logged") or (card.usable_gib if card else None),
        tensor_parallel=row["tensor_parallel"],
        pipeline_parallel=row["pipeline_parallel"],
        max_model_len=row.get("max_model_len"),
        kv_cache_dtype=None if kv == "auto" else kv,
        utilization=row.get("gpu_memory_utilization") or row.get("util_effective"),
        max_num_seqs=row.get("max_num_seqs"),
        max_num_batched_tokens=row.get("max_num_batched_tokens"),
        enforce_eager=row.get("enforce_eager") is True,
        version=row.get("vllm_version"),
        card=card,
    )
    return Case(row, config, read_geometry(config, quantization=method), setup)


def by_arithmetic(cases):
    """Errors of the tokens that the memory of the log is enough for."""
    for case in cases:
        left, real = case.row.get("available_kv_gib", 0), case.row.get("kv_cache_tokens")
        if left > 0 and real:
            pool = make_pool(case.shape, case.setup)
            length = length_of(case.shape, case.setup)
            yield logged_tokens(pool, case.setup, left * fit.GIB, length) / real - 1


def errors(cases, plans):
    """By what was measured: weights, memory and tokens of the cache, relative to the real ones."""
    found = {"weights": [], "KV cache, GiB": [], "tokens": []}
    for case, plan in zip(cases, plans, strict=True):
        if case.row.get("weights_gib"):
            found["weights"].append(plan.weights_gib / case.row["weights_gib"] - 1)
        if plan.available_kv_gib is None:
            continue
        if (real := case.row.get("available_kv_gib", 0)) > 0:
            found["KV cache, GiB"].append(plan.available_kv_gib / real - 1)
        if case.row.get("kv_cache_tokens"):
            found["tokens"].append(plan.kv_cache_tokens / case.row["kv_cache_tokens"] - 1)
    return found


def show(title, found):
    print(f"\n{title:24}{'rows':>6}{'median':>9}{'in 10 %':>9}{'in 25 %':>9}")
    for name, values in found.items():
        if not values:
            continue
        sizes = [abs(value) for value in values]
        near = [sum(size <= limit for size in sizes) / len(sizes) for limit in (0.1, 0.25)]
        median = statistics.median(sizes)
        print(f"{name:24}{len(sizes):6}{median:9.1%}{near[0]:9.0%}{near[1]:9.0%}")


def measured(cases):
    """Those whose GPU is known, and that tell what was left for the KV cache."""
    return [case for case in cases if case.setup.usable_gib and case.row.get("available_kv_gib")]


def without_its_source(cases):
    """The plans with the working memory that the rows of all other sources would choose."""
    known = measured(cases)
    missing = {
        id(case): case.planned().available_kv_gib - case.row["available_kv_gib"] for case in known
    }
    for case in cases:
        others = [missing[id(other)] for other in known if other.source != case.source]
        plan = case.planned()
        moved = statistics.median(others)
        if plan.available_kv_gib is not None:  # the range stays that of a plan without a log
            off = plan.range_gib
            plan = replace(case.planned(correction=fit.Correction(moved)), range_gib=off)
        yield plan


def after_one_start(cases):
    """Pairs of a case and its plan, corrected with the first other one of the same machine."""
    for case in cases:
        for other in cases:
            alike = other is not case and other.source == case.source
            if not alike or other.row.get("available_kv_gib", 0) <= 0:
                continue
            if (other.setup.card, other.setup.version) != (case.setup.card, case.setup.version):
                continue
            row = {key: value for key, value in other.row.items() if value is not None}
            seen = Startup.model_validate(
                row | {"utilization": other.setup.utilization, "version": other.setup.version}
            )
            same = other.row["model"] == case.row["model"]
            yield case, case.planned(correction=correction(seen, other.config, case.setup, same))
            break


def inside(pairs):
    """How often what was measured lies in the plan's range."""
    good = [
        abs(plan.available_kv_gib - case.row["available_kv_gib"]) <= plan.range_gib
        for case, plan in pairs
        if plan.available_kv_gib is not None and case.row.get("available_kv_gib")
    ]
    print(f"{'in its range':24}{len(good):6}  {sum(good)} of {len(good)}")


def main():
    path = Path(sys.argv[1]) if sys.argv[1:] else DATA / "startups.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    cases = [case for case in map(read, rows) if case is not None]
    left_out = len(rows) - len(cases)
    print(f"{len(rows)} start-ups, {left_out} left out: their model, or how it ran, is not known")
    plans = [case.planned() for case in cases]
    show("from the configuration", errors(cases, plans))
    verdicts = [
        plan.fits is (case.row["outcome"] == "ok")
        for case, plan in zip(cases, plans, strict=True)
        if case.row["outcome"] != "other" and plan.fits is not None
    ]
    print(f"{'starts or not':24}{len(verdicts):6}  right: {sum(verdicts) / len(verdicts):.0%}")
    show("tokens of the real memory", {"tokens": list(by_arithmetic(cases))})
    others = list(without_its_source(cases))
    show("without its source", errors(cases, others))
    inside(zip(cases, others, strict=True))
    if pairs := list(after_one_start(measured(cases))):
        show("after one start", errors(*zip(*pairs, strict=True)))
        inside(pairs)


if __name__ == "__main__":
    main()
