"""Text of a model or a document, made safe for `st.markdown`, with citations put in.

Streamlit shows HTML as text, but Markdown can still load a remote image (which tells its server
what is in the address) or dress a link up as something else. So every bracket, dollar and angle
outside code loses its meaning; the links that remain are the ones we put in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gearshift.rag.citations import marks
from gearshift.schemas import Answer, CitedBy

# A code span, as narrow as Markdown parsers agree on: one line, and no cell border inside.
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)([^\n|]*?[^`\n|])\1(?!`)")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)", re.MULTILINE)
_SPECIAL = "[]<>$"


def plain(text: str) -> str:
    """`text` without any Markdown or HTML meaning: for names and titles."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$:~])", r"\\\1", " ".join(text.split()))


def safe(text: str, inserts: Mapping[int, str] | None = None) -> str:
    """Markdown that formats but neither links nor loads.

    Args:
        inserts: Our own Markdown to put in, by position in `text`.
    """
    inserts = inserts or {}
    fences = _fenced(text)
    out: list[str] = []
    position = 0
    while position < len(text):
        if position in inserts and not _within(position, fences):
            out.append(inserts[position])
        for start, end in fences:
            if start == position:
                out.append(text[start:end])
                position = end
                break
        else:
            position = _copy(text, position, out)
    if len(text) in inserts and not (fences and fences[-1][1] == len(text)):
        out.append(inserts[len(text)])
    return "".join(out)


def _copy(text: str, position: int, out: list[str]) -> int:
    character = text[position]
    if character == "\\" and position + 1 < len(text):
        pair = text[position : position + 2]
        out.append(pair if pair[1] in _SPECIAL + "`\\*_" else "\\" + pair)
        return position + 2
    if character == "`" and (code := _CODE_SPAN.match(text, position)):
        out.append(code[0])
        return code.end()
    out.append("\\" + character if character in _SPECIAL + "`" else character)
    return position + 1


def _fenced(text: str) -> list[tuple[int, int]]:
    """Fenced code blocks; one that is never closed runs to the end."""
    blocks = []
    opened: tuple[int, str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence.start(), fence[1]
        elif fence[1][0] == opened[1][0] and len(fence[1]) >= len(opened[1]):
            line_end = text.find("\n", fence.end())
            rest = text[fence.end() : line_end if line_end >= 0 else len(text)]
            if not rest.strip():
                blocks.append((opened[0], fence.end()))
                opened = None
    if opened is not None:
        blocks.append((opened[0], len(text)))
    return blocks


def _within(position: int, blocks: list[tuple[int, int]]) -> bool:
    return any(start < position < end for start, end in blocks)


def cited(answer: Answer, known: set[int]) -> str:
    """The answer with its citations: `[n]` by the model, `≈n` matched, and what has no support."""
    text = answer.text
    inserts: dict[int, str] = {}

    def insert(position: int, markdown: str) -> None:
        inserts[position] = inserts.get(position, "") + markdown

    for citation in answer.citations:
        if citation.by is CitedBy.MATCH:
            insert(citation.end, f" [≈{citation.number}](#source-{citation.number})")
    for _, end in answer.unsupported:
        insert(end, " :gray-badge[no source]")
    # What the model wrote is replaced where it stands, back to front so that positions hold.
    for start, end, numbers in reversed(marks(text)):
        links = "".join(
            f"[\\[{n}\\]](#source-{n})" if n in known else f":red-badge[{n} points nowhere]"
            for n in numbers
        )
        text = text[:start] + text[end:]
        shift = end - start
        inserts = {p - shift if p >= end else p: v for p, v in inserts.items()}
        inserts[start] = links + inserts.get(start, "")
    return safe(text, inserts)
