"""Where support ends: matched citations for answers that the handbook supports, and for others.

Each question of `data/questions.jsonl` has an answer in other words than the handbook's, and a
sentence on the same subject that the handbook does not support. Both are matched against the five
passages that the question finds, as in a chat. Printed for each threshold: the share of supported
answers that would get a citation, and the share of unsupported ones that would get one wrongly.

    python benchmarks/citation_threshold.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from gearshift.data import DATA
from gearshift.rag import library
from gearshift.rag.chat import PASSAGES
from gearshift.rag.citations import THRESHOLD, Citer
from gearshift.schemas import Source
from gearshift.settings import load_settings


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        load_settings.cache_clear()
        import os

        os.environ["GEARSHIFT_HOME"] = home
        sample = library.sample()
        citer = Citer(sample.embedder)
        lines = (Path(DATA) / "questions.jsonl").read_text("utf-8").splitlines()
        scores: dict[str, list[float]] = {"answer": [], "unsupported": []}
        for line in lines:
            row = json.loads(line)
            hits = sample.search(row["question"], PASSAGES)
            sources = [Source(i, hit.passage, hit.score) for i, hit in enumerate(hits, 1)]
            for kind, found in scores.items():
                found.append(citer._support([row[kind]], sources)[0][1])
    supported, unsupported = (np.array(scores[kind]) for kind in scores)
    print(f"{len(supported)} pairs; the threshold in use is {THRESHOLD}\n")
    print("| threshold | supported and cited | unsupported but cited |")
    print("|---|---|---|")
    for threshold in np.arange(0.5, 0.9, 0.02):
        found, wrong = (supported >= threshold).mean(), (unsupported >= threshold).mean()
        print(f"| {threshold:.2f} | {found:.0%} | {wrong:.0%} |")


if __name__ == "__main__":
    main()
