"""Ties the sentences of an answer to the passages that support them.

Citations that the model wrote (`[2]`) are taken as they are, also when they point nowhere. For a
sentence without one, support is looked for in the passages: its words must stand there, numbers
among them, and its meaning must be that of a sentence there. Below the threshold, which was
measured on the sample questions (`benchmarks/citation_threshold.py`), it has no support, and the
record says so.

What it does not know: whether a sentence is true. A sentence may repeat a passage's words and
still turn its meaning round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gearshift.rag.embedders import Embedder
from gearshift.schemas import Citation, CitedBy, Source

THRESHOLD = 0.7
"""Support that a sentence needs, from 0 to 1."""
_LEAST_WORDS = 3  # fewer content words are a greeting or a heading, which nobody needs to support

_MARK = re.compile(r"\[((?:\d{1,4})(?:\s*(?:,|;|and|&)\s*\d{1,4})*)\]")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"')\]*_]*(?:\s*\[\d[\d,;\s]*\])*\s+(?=\S)|(?<=…)\s+(?=[\"'(]?[A-Z])|\n\s*\n|\n(?=\s*(?:[-*+•]|\d+[.)]|#)\s)"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|no|fig|dr|mr|mrs|ms|st)\.|^\s*\d+[.)])$", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+(?:[._/-][^\W_]+)*")
_STOP = frozenset(
    re.findall(
        r"\w+",
        """a about above after all also an and any are as at be because been before being between
        both but by can could did do does each either for from had has have here how however i if
        in into is it its itself just may more most must my of on one only or other our out over
        own same should since so some such than that the their them then there these they this
        those through to too under up use used uses using very via was we were what when where
        which while who why will with would you your source sources according answer question""",
    )
)


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]`, a sentence."""

    start: int
    end: int


def sentences(text: str) -> list[Span]:
    """The sentences of a text: split at sentence ends, list items and paragraphs, not in code."""
    code = [match.span() for match in _CODE.finditer(text)]
    spans: list[Span] = []
    start = 0
    for match in [*_SENTENCE_END.finditer(text), None]:
        end = match.start() if match else len(text)
        if match:
            marks = re.match(r"[\"')\]*_]*(?:\s*\[\d[\d,;\s]*\])*", match[0])
            end += marks.end() if marks else 0
            inside = any(a < match.start() < b for a, b in code)
            if inside or ("\n" not in match[0] and _ABBREVIATION.search(text[start:end])):
                continue
        stripped = text[start:end].strip()
        if stripped:
            first = text.index(stripped, start)
            spans.append(Span(first, first + len(stripped)))
        start = match.end() if match else end
    return spans


def words(text: str) -> set[str]:
    """The content words of a text, without endings that only change a word's form."""
    return {_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP}


def _stem(word: str) -> str:
    if word[-1].isdigit():
        return word
    for ending, shortest in (("ing", 6), ("ed", 5), ("es", 5), ("s", 4)):
        if word.endswith(ending) and len(word) >= shortest and not word.endswith("ss"):
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e")


def numbers(text: str) -> set[str]:
    """The figures in a text, marks of citations and of list items left out."""
    bare = re.sub(r"(?m)^\s*\d+[.)]\s", " ", _MARK.sub(" ", text))
    return {figure.replace(",", "") for figure in re.findall(r"\d+(?:[.,]\d+)*", bare)}


def marks(text: str) -> list[tuple[int, int, list[int]]]:
    """The citations that the model wrote: start, end and numbers of each, outside code."""
    code = [match.span() for match in _CODE.finditer(text)]
    return [
        (match.start(), match.end(), [int(number) for number in re.findall(r"\d+", match[1])])
        for match in _MARK.finditer(text)
        if not any(a <= match.start() < b for a, b in code)
    ]


def written_citations(text: str, sources: Mapping[int, Source]) -> list[Citation]:
    """The citations that the model wrote, each with the sentence that it stands in."""
    written = marks(text)
    citations: list[Citation] = []
    for span in sentences(text):
        mine = [mark for mark in written if span.start <= mark[0] < span.end]
        for number in dict.fromkeys(number for _, _, found in mine for number in found):
            source = sources.get(number)
            passage = source.passage.id if source else None
            citations.append(Citation(number, passage, CitedBy.MODEL, span.start, span.end))
    return citations


class Citer:
    """Finds the citations of an answer; meaning is compared with the collection's embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def cite(
        self, text: str, sources: Mapping[int, Source]
    ) -> tuple[list[Citation], list[tuple[int, int]]]:
        """The citations of `text` in order, and the spans of sentences without support.

        Args:
            sources: What each number stands for.
        """
        citations = written_citations(text, sources)
        cited = {(citation.start, citation.end) for citation in citations}
        bare = [
            span
            for span in sentences(text)
            if (span.start, span.end) not in cited
            and len(words(text[span.start : span.end])) >= _LEAST_WORDS
        ]
        supported = self._support([text[s.start : s.end] for s in bare], list(sources.values()))
        unsupported = []
        for span, (source, score) in zip(bare, supported, strict=True):
            if source is not None and score >= THRESHOLD:
                citations.append(
                    Citation(
                        source.number, source.passage.id, CitedBy.MATCH, span.start, span.end, score
                    )
                )
            else:
                unsupported.append((span.start, span.end))
        return sorted(citations, key=lambda c: (c.start, c.number)), unsupported

    def _support(
        self, claims: Sequence[str], sources: Sequence[Source]
    ) -> list[tuple[Source | None, float]]:
        """For each claim the passage that supports it best, and how well, from 0 to 1.

        Words choose the place, meaning confirms it: only the sentence of each claim's best passage
        is embedded, not all of them.
        """
        if not claims or not sources:
            return [(None, 0.0)] * len(claims)
        places = [_Place.of(source) for source in sources]
        best = [
            max((place.support(claim) for place in places), key=lambda s: s[0]) for claim in claims
        ]
        vectors = self.embedder.embed([*claims, *(sentence for _, sentence, _ in best)])
        half = len(claims)
        meaning = np.sum(vectors[:half] * vectors[half:], axis=1)
        return [
            (source, float(0.5 * lexical + 0.5 * max(0.0, same)))
            for (lexical, _, source), same in zip(best, meaning, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Place:
    """A source prepared for comparing: its windows of up to two sentences, and its words."""

    source: Source
    windows: list[tuple[str, set[str]]]
    all_words: set[str]
    all_numbers: set[str]

    @classmethod
    def of(cls, source: Source) -> _Place:
        heading = " ".join(source.passage.heading)
        text = source.passage.text
        spans = sentences(text) or [Span(0, len(text))]
        pairs = zip(spans, [*spans[1:], spans[-1]], strict=True)
        windows = [text[s.start : s.end] for s in spans]
        windows += [text[a.start : b.end] for a, b in pairs if a is not b]
        return cls(
            source,
            [(window, words(window)) for window in windows],
            words(f"{heading} {text}"),
            numbers(f"{heading} {text}"),
        )

    def support(self, claim: str) -> tuple[float, str, Source]:
        """Share of the claim's words in the passage, and the window that shares the most.

        A figure that the passage does not contain makes the claim unsupported, whatever its words.
        """
        wanted = words(claim)
        window, shared = max(
            ((text, len(wanted & found)) for text, found in self.windows), key=lambda w: w[1]
        )
        if not wanted or not numbers(claim) <= self.all_numbers:
            return 0.0, window, self.source
        within = len(wanted & self.all_words) / len(wanted)
        return 0.5 * within + 0.5 * shared / len(wanted), window, self.source
