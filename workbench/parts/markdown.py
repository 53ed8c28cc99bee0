"""Text of a model or a document, made safe for `st.markdown`, with citations put in.

Streamlit shows HTML as text, but Markdown can still load a remote image (which tells its server
what is in the address) or dress a link up as something else. So every bracket, dollar and angle
outside code loses its meaning. A bare address may become a link, but one that shows where it goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gearshift.rag.citations import marks
from gearshift.schemas import Answer, CitedBy

# A code span, as narrow as Markdown parsers agree on: one line.
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")
# What a table needs; in one, a cell border ends a code span.
_TABLE = re.compile(r"^[\s>*+\d.)|:-]*-[\s|:-]*$", re.MULTILINE)
# Only fences that every parser sees as such: at the left edge, with a plain word behind them. An
# indented one may end with its list, and what follows would be live.
_OPENING = re.compile(r"^(`{3,}|~{3,})[\w+-]*[ \t]*$", re.MULTILINE)
_CLOSING = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*$", re.MULTILINE)
_SPECIAL = "[]<>$~"


def plain(text: str) -> str:
    """`text` without any Markdown or HTML meaning: for names and titles."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$:~])", r"\\\1", " ".join(text.split()))


def safe(text: str, inserts: Mapping[int, str] | None = None) -> str:
    """Markdown that formats, but loads nothing and dresses no link up.

    Args:
        inserts: Our own Markdown to put in, by position in `text`.
    """
    inserts = inserts or {}
    # Markdown ends lines at \r, too; as many characters as before, so that positions hold.
    text = text.replace("\r\n", " \n").replace("\r", "\n")
    fences = _fenced(text)
    tables = _TABLE.search(text) is not None
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
            position = _copy(text, position, out, tables)
    if len(text) in inserts and not (fences and fences[-1][1] == len(text)):
        out.append(inserts[len(text)])
    return "".join(out)


def _copy(text: str, position: int, out: list[str], tables: bool) -> int:
    character = text[position]
    if character == "\\" and position + 1 < len(text):
        pair = text[position : position + 2]
        out.append(pair if pair[1] in _SPECIAL + "`\\*_" else "\\" + pair)
        return position + 2
    if character == "`" and (code := _CODE_SPAN.match(text, position)):
        broken = tables and "|" in code[0]
        out.append("".join(map(_escaped, code[0])) if broken else code[0])
        return code.end()
    out.append(_escaped(character))
    return position + 1


def _escaped(character: str) -> str:
    return "\\" + character if character in _SPECIAL + "`" else character


def _fenced(text: str) -> list[tuple[int, int]]:
    """Fenced code blocks; one that is never closed runs to the end."""
    blocks = []
    position = 0
    while opening := _OPENING.search(text, position):
        mark = opening[1]
        position = len(text)
        for closing in _CLOSING.finditer(text, opening.end()):
            if closing[1][0] == mark[0] and len(closing[1]) >= len(mark):
                position = closing.end()
                break
        blocks.append((opening.start(), position))
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
