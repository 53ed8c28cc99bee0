"""How right the fit plan is: predicted beside what real start-ups have logged.

`python -m benchmarks.fit [ROWS.jsonl]`; without a file the start-ups of `data/startups.jsonl`. Each
row's model has to be in `data/model-shapes.json`; rows of other models, and rows that do not name
their GPU, are counted and left out. The constants of `engine/fit.py` are round numbers and were
chosen with rows of this kind in sight, so a fresh file is the fairer measure.
"""

import json
import statistics
import sys
from pathlib import Path

from gearshift.data import DATA
from gearshift.engine import fit
from gearshift.engine.cards import find_card
from gearshift.engine.geometry import read_geometry
from gearshift.engine.models import known_shapes


def planned(row):
    """What the plan says of a start-up, `None` where the row does not tell enough."""
    config = known_shapes().get((row.get("model") or "").lower())
    if config is None:
        return None
    method = "fp8" if "fp8" in f"{row.get('quantization')} {row['model']}".lower() else None
    shape = read_geometry(config, quantization=method)
    card = find_card(row["gpu"]) if row.get("gpu") else None
    usable = row.get("total_gib_logged") or (card.usable_gib if card else None)
    if usable is None:
        return None
    kv = row.get("kv_cache_dtype")
    return fit.plan(
        shape,
        fit.Setup(
            usable_gib=usable,
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
        ),
    )


def main():
    path = Path(sys.argv[1]) if sys.argv[1:] else DATA / "startups.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    memory, tokens, weights, verdicts, left_out = [], [], [], [], 0
    for row in rows:
        found = planned(row)
        if found is None:
            left_out += 1
            continue
        if row.get("weights_gib"):
            weights.append(found.weights_gib / row["weights_gib"] - 1)
        if (real := row.get("available_kv_gib", 0)) > 0:
            memory.append(found.available_kv_gib / real - 1)
        if row.get("kv_cache_tokens"):
            tokens.append(found.kv_cache_tokens / row["kv_cache_tokens"] - 1)
        if row["outcome"] != "other":
            verdicts.append(found.fits is (row["outcome"] == "ok"))
    print(f"{len(rows)} start-ups, {left_out} left out: their model or their GPU is not known")
    print(f"{'':24}{'rows':>6}{'median':>9}{'in 10 %':>9}{'in 25 %':>9}")
    for name, errors in (("weights", weights), ("KV cache, GiB", memory), ("tokens", tokens)):
        sizes = [abs(error) for error in errors]
        near = [sum(size <= limit for size in sizes) / len(sizes) for limit in (0.1, 0.25)]
        median = statistics.median(sizes)
        print(f"{name:24}{len(sizes):6}{median:9.1%}{near[0]:9.0%}{near[1]:9.0%}")
    print(f"{'starts or not':24}{len(verdicts):6}  right: {sum(verdicts) / len(verdicts):.0%}")


if __name__ == "__main__":
    main()
