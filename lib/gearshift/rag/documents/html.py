"""HTML: what a reader would see, with headings, lists and tables as Markdown."""

from __future__ import annotations

import re
import warnings

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, PreformattedString

from gearshift.rag.documents._base import Parsed, Reason, clean, fail
from gearshift.rag.documents._decode import decode

KIND = "html"
SUFFIXES = (".html", ".htm", ".xhtml")

_BEGINS = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(!doctype\s+html|html|head|body)\b",
    re.I | re.S,
)
_DECLARED = re.compile(rb"(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.I)
_UNSEEN = ["script", "style", "noscript", "template", "head", "svg", "iframe", "object", "nav"]
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])|(?<![-\w])opacity\s*:\s*0(?![.\d])",
    re.I,
)
_END_OF_PRE = object()
_BLOCKS = {
    "p", "div", "section", "article", "main", "header", "footer", "aside", "ul", "ol", "table",
    "blockquote", "pre", "figure", "form", "dl", "dt", "dd", "tr", "br", "hr", "h1", "h2", "h3",
    "h4", "h5", "h6", "li",
}  # fmt: skip


def recognises(data: bytes, suffix: str) -> bool:
    """Whether these bytes are of this format; the name\'s ending decides where bytes cannot."""
    head = data[:4096].removeprefix(b"\xef\xbb\xbf")
    if _BEGINS.match(head):
        return True
    return suffix in SUFFIXES and decode(data) is not None


def read(data: bytes) -> Parsed:
    """The text of the document.

    Raises:
        DocumentError: it cannot be read.
    """
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        try:
            soup = BeautifulSoup(_text(data, notes), "lxml")
        except (ValueError, AssertionError) as error:
            raise fail(Reason.CORRUPT, f"the HTML cannot be read: {error}") from None
    title = soup.title.get_text(" ", strip=True) if soup.title else None
    for tag in soup(_UNSEEN):
        tag.decompose()
    hidden = [
        tag
        for tag in soup.find_all(True)
        if tag.has_attr("hidden")
        or tag.get("aria-hidden") == "true"
        or _HIDDEN.search(str(tag.get("style") or ""))
    ]
    for tag in hidden:
        if not tag.decomposed:
            tag.decompose()
    if hidden:
        notes.append(f"{len(hidden)} hidden part{'s' if len(hidden) > 1 else ''} left out")
    text = re.sub(r"[ \t]+\n", "\n", "".join(_pieces(soup)))
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return Parsed(KIND, clean(text, notes), title or None, notes=notes)


def _text(data: bytes, notes: list[str]) -> str:
    match = _DECLARED.search(data[:2048])
    declared = match[1].decode("ascii").lower() if match else None
    # Whoever can read a declaration of UTF-16 in ASCII letters has not got UTF-16 before him, and
    # what calls itself Latin-1 is Windows-1252 (https://encoding.spec.whatwg.org).
    names = {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "utf8": "utf-8"}
    found = decode(data, names.get(declared, declared) if declared else None)
    if found is None:
        raise fail(Reason.CORRUPT, "it is not text in any encoding that we know")
    if declared is not None and not found[1].startswith(names.get(declared, declared)):
        notes.append(f"it declares to be {declared}, and was read as {found[1]}")
    elif declared is None and not found[1].startswith("utf-8"):
        notes.append(f"read as {found[1]}")
    return found[0]


def _pieces(soup: Tag) -> list[str]:
    """Text in reading order. Walks without recursion: pages nest thousands deep on purpose."""
    out: list[str] = []
    stack: list[object] = [soup]
    in_pre = 0
    while stack:
        item = stack.pop()
        if item is _END_OF_PRE:
            in_pre -= 1
        elif isinstance(item, str) and not isinstance(item, NavigableString):
            out.append(item)
        elif isinstance(item, PreformattedString):
            continue  # comments, doctypes
        elif isinstance(item, NavigableString):
            out.append(str(item) if in_pre else re.sub(r"\s+", " ", str(item)))
        elif isinstance(item, Tag):
            before, after = _around(item)
            if item.name == "pre":
                in_pre += 1
                stack.append(_END_OF_PRE)
            stack.append(after)
            stack.extend(reversed(list(item.children)))
            stack.append(before)
    return out


def _around(tag: Tag) -> tuple[str, str]:
    name = tag.name
    if re.fullmatch("h[1-6]", name):
        return "\n\n" + "#" * int(name[1]) + " ", "\n\n"
    if name == "li":
        return "\n- ", "\n"
    if name in ("td", "th"):
        return " ", " |"
    if name == "pre":
        return "\n\n```\n", "\n```\n\n"
    if name in ("br", "tr"):
        return "\n", ""
    return ("\n\n", "\n\n") if name in _BLOCKS else ("", "")
