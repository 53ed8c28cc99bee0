"""Documents to passages: pieces that an embedder reads whole, and that say where they stand.

A passage has at most 230 tokens of MiniLM's tokenizer, so that it and its headings fit into the 256
that the model reads; an abstract stays in one piece. Cuts are made at headings, paragraphs and
sentences first (semantic-text-splitter).
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from gearshift.rag.minilm_wheel import model_folder
from gearshift.schemas import Passage, StoredDocument

SPLITTER_VERSION = "2"
"""Changes whenever the same text would be split otherwise."""
MAX_TOKENS = 230
_BLOCK = 32_000  # characters
_LONGEST = 2_000  # characters of a passage

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$|^(```|~~~)", re.MULTILINE)
_MARKED_UP = {"md", "html", "docx"}


@lru_cache(maxsize=2)
def _splitter(marked_up: bool) -> Any:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    kind = MarkdownSplitter if marked_up else TextSplitter
    return kind.from_huggingface_tokenizer(tokenizer, MAX_TOKENS)


def searchable(passage: Passage) -> str:
    """What is embedded and searched: the headings above a passage, then its text."""
    return (
        "\n".join([" › ".join(passage.heading), passage.text]) if passage.heading else passage.text
    )


def split(document: StoredDocument) -> list[Passage]:
    """The passages of a document, in order; each is an exact span of its text."""
    marked_up = document.kind in _MARKED_UP
    starts, paths = _headings(document.text) if marked_up else ([], [])
    stem = hashlib.sha256(
        f"{document.name}\0{document.digest}".encode("utf-8", "surrogatepass")
    ).hexdigest()[:16]
    passages: list[Passage] = []
    page_start = 0
    pages = document.text.split("\f") if document.pages else [document.text]
    for number, page in enumerate(pages, 1):
        for offset, block in _blocks(page):
            for within, text in _pieces(_splitter(marked_up).chunk_indices(block)):
                first = page_start + offset + within
                above = bisect_right(starts, first)
                passages.append(
                    Passage(
                        f"{stem}-{len(passages)}",
                        document.name,
                        text,
                        first,
                        first + len(text),
                        paths[above - 1] if above else (),
                        number if document.pages else None,
                    )
                )
        page_start += len(page) + 1
    return [passage for passage in passages if any(c.isalnum() for c in passage.text)]


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Position and text of blocks that are split one by one, cut where a reader would cut.

    The splitter takes more than twice the time for twice the text, with some texts four times.
    """
    start = 0
    while len(text) - start > _BLOCK:
        end = start + _BLOCK
        half = start + _BLOCK // 2
        cuts = (text.rfind(mark, half, end) for mark in ("\n#", "\n\n", "\n", " "))
        cut = next((cut for cut in cuts if cut > 0), end)
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]


def _pieces(chunks: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The chunks, those cut up that have few tokens and many characters.

    To the tokenizer a run of more than 100 characters without a space is one unknown word, be it
    an image in letters or a page of Thai.
    """
    for start, text in chunks:
        while len(text) > _LONGEST:
            cut = text.rfind(" ", _LONGEST // 2, _LONGEST) + 1 or _LONGEST
            yield start, text[:cut]
            start, text = start + cut, text[cut:]
        yield start, text


def _headings(text: str) -> tuple[list[int], list[tuple[str, ...]]]:
    """Where each heading stands, and the path of headings down to it; not those in code fences."""
    starts: list[int] = []
    paths: list[tuple[str, ...]] = []
    path: list[tuple[int, str]] = []
    fence: str | None = None
    for match in _HEADING.finditer(text):
        if match[3]:
            fence = None if fence == match[3] else fence or match[3]
        elif fence is None:
            level = len(match[1])
            path = [(above, name) for above, name in path if above < level]
            path.append((level, match[2]))
            starts.append(match.start())
            paths.append(tuple(words for _, words in path))
    return starts, paths
