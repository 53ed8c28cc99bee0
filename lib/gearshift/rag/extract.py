"""Sentences that may answer a question, for a model that is too small to write its own.

SmolLM2-135M copies the wrong half of a sentence and invents the other; asked to choose among
sentences of the passages it is right more often, and what it says stands in a document word for
word. The embedder narrows the choice; the model, reading the passages, makes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gearshift.rag.citations import sentences, words
from gearshift.rag.embedders import Embedder
from gearshift.schemas import Source

REFUSAL = "No sentence of the passages that were found answers this question."
_COUNT = 4
_LEAST_WORDS = 2  # content words; fewer are a scrap
_LEAST_LIKENESS = 0.35
"""Cosine of question and sentence below which a sentence is about something else, unless it has
half of the question's content words.

Of the handbook's 60 questions 98 in 100 find a sentence above it; of eleven on other subjects none.
"""
_LIST_MARK = re.compile(r"^(?:[-*+•]|\d+[.)])\s+")


def candidates(queries: Sequence[str], sources: Sequence[Source], embedder: Embedder) -> list[str]:
    """The sentences of the sources that are nearest to any of the queries, in reading order.

    There is always one: where no sentence is near, it says that there is none.
    """
    found = list(
        dict.fromkeys(sentence for source in sources for sentence in _whole(source.passage.text))
    )
    if not found:
        return [REFUSAL]
    vectors = embedder.embed([*queries, *found])
    likeness = (vectors[len(queries) :] @ vectors[: len(queries)].T).max(axis=1)
    asked = words(queries[0])
    best = sorted(np.argsort(-likeness)[:_COUNT])
    return [
        found[i]
        for i in best
        if likeness[i] >= _LEAST_LIKENESS or 2 * len(asked & words(found[i])) >= len(asked) > 0
    ] or [REFUSAL]


def _whole(text: str) -> list[str]:
    """The sentences of a passage that can stand alone, and the rows of its tables."""
    found: list[str] = []
    for span in sentences(text):
        sentence = _LIST_MARK.sub("", text[span.start : span.end])
        if sentence.startswith("|"):
            found += [" ".join(row.strip("| ").split()) for row in sentence.splitlines()]
        elif not re.match(r"[#>`]|\s{4}", sentence) and "```" not in sentence:
            found.append(" ".join(sentence.split()))
    return [sentence for sentence in found if len(words(sentence)) >= _LEAST_WORDS]
