"""Hybrid retrieval: words (BM25 with English stems) and meaning (vectors), as one score.

The scores are combined by a convex combination with equal weights, each brought to 0 … 1 first
(after Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", 2023), which
`benchmarks/retrieval_quality.py` compares with either alone and with reciprocal rank fusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gearshift.schemas import Hit

if TYPE_CHECKING:
    from collections.abc import Callable

    from gearshift.rag.embedders._base import Vectors
    from gearshift.rag.tables import Snapshot

CANDIDATES = 100
"""Passages that either search proposes."""
_LONGEST_QUERY = 1_000  # characters that full-text search is given


def hybrid(newest: Callable[[], Snapshot], query: str, vector: Vectors, k: int) -> list[Hit]:
    """The best `k` passages; scores lie between 0 and 1, comparable within one search.

    Args:
        newest: Takes a snapshot of the collection.
        vector: The query's vector, of shape (dimension,).
    """
    # A writer may replace rows between the two searches: then both are done again.
    hits: list[Hit] = []
    for _ in range(3):
        snapshot = newest()
        if not len(snapshot.rows):
            return []
        limit = max(CANDIDATES, k)
        meaning = snapshot.vectors @ vector
        words = dict(snapshot.tables.lexical(query[:_LONGEST_QUERY], limit))
        near = np.argpartition(-meaning, min(limit, len(meaning)) - 1)[:limit]
        chosen = np.union1d(near, np.flatnonzero(np.isin(snapshot.rows, list(words))))
        lexical = np.array([words.get(int(snapshot.rows[i]), 0.0) for i in chosen])
        dense = meaning[chosen]
        scores = 0.5 * _unit(lexical, 0.0) + 0.5 * _unit(dense, float(dense.min()))
        best = np.argsort(-scores, kind="stable")[:k]
        rows = [int(snapshot.rows[chosen[i]]) for i in best]
        passages = snapshot.tables.fetch(rows, snapshot.digests)
        hits = [
            Hit(passage, float(scores[i]))
            for passage, i in zip(passages, best, strict=True)
            if passage is not None
        ]
        if len(hits) == len(rows):
            break
    return hits


def _unit(values: Vectors, least: float) -> Vectors:
    """Brings values to 0 … 1, `least` becoming 0 and the largest 1."""
    span = float(values.max()) - least
    return (values - least) / span if span > 0 else np.zeros_like(values)
