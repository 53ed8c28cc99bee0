"""Documents to passages: pieces that an embedder reads whole, and that say where they stand.

A passage has at most 230 tokens of MiniLM's tokenizer, so that it and its headings fit into the 256
that the model reads; an abstract stays in one piece. Cuts are made at headings, paragraphs and
sentences first (semantic-text-splitter).
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gearshift.rag.embedders.minilm import model_folder
from gearshift.schemas import Passage

if TYPE_CHECKING:
    from gearshift.rag.index import StoredDocument

SPLITTER_VERSION = "1"
"""Changes whenever the same text would be split otherwise."""
MAX_TOKENS = 230

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
    headings = _headings(document.text) if marked_up else []
    stem = hashlib.sha256(
        f"{document.name}\0{document.digest}".encode("utf-8", "surrogatepass")
    ).hexdigest()[:16]
    passages: list[Passage] = []
    start = 0
    pages = document.text.split("\f") if document.pages else [document.text]
    for number, page in enumerate(pages, 1):
        for offset, text in _splitter(marked_up).chunk_indices(page):
            first = start + offset
            passages.append(
                Passage(
                    f"{stem}-{len(passages)}",
                    document.name,
                    text,
                    first,
                    first + len(text),
                    _path(headings, first),
                    number if document.pages else None,
                )
            )
        start += len(page) + 1
    return [passage for passage in passages if any(c.isalnum() for c in passage.text)]


def _headings(text: str) -> list[tuple[int, int, str]]:
    """Position, level and words of each heading, those in code fences left out."""
    found: list[tuple[int, int, str]] = []
    fence: str | None = None
    for match in _HEADING.finditer(text):
        if match[3]:
            fence = None if fence == match[3] else fence or match[3]
        elif fence is None:
            found.append((match.start(), len(match[1]), match[2]))
    return found


def _path(headings: list[tuple[int, int, str]], position: int) -> tuple[str, ...]:
    path: list[tuple[int, str]] = []
    for start, level, words in headings:
        if start > position:
            break
        path = [(above, name) for above, name in path if above < level]
        path.append((level, words))
    return tuple(words for _, words in path)
