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
_LEAST_WORDS = 4
_LEAST_LIKENESS = 0.35
"""Cosine of question and sentence below which a sentence is about something else.

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
    best = sorted(np.argsort(-likeness)[:_COUNT])
    return [found[i] for i in best if likeness[i] >= _LEAST_LIKENESS] or [REFUSAL]


def _whole(text: str) -> list[str]:
    """The sentences of a passage that can stand alone: no headings, tables, code or scraps."""
    spans = (text[span.start : span.end] for span in sentences(text))
    bare = (_LIST_MARK.sub("", span) for span in spans)
    return [
        " ".join(sentence.split())
        for sentence in bare
        if not re.match(r"[#|>`]|\s{4}", sentence)
        and "```" not in sentence
        and len(words(sentence)) >= _LEAST_WORDS
    ]
