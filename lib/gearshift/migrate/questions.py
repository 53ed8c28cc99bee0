"""What both servers are asked in a comparison: people's own prompts, or questions on documents."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gearshift.data import DATA
from gearshift.errors import EngineError
from gearshift.rag.chat import PASSAGES, Documents
from gearshift.rag.prompt import PLAIN, build
from gearshift.schemas import Message, Source

_ROOM = 3000  # tokens of a prompt, so that it fits into Ollama's default context


@dataclass(frozen=True)
class Question:
    """What is asked: the messages as they are sent, and the passages among them."""

    text: str
    messages: tuple[Message, ...]
    sources: tuple[Source, ...] = ()


def read_questions(path: Path | None, most: int) -> list[str | list[Message]]:
    """The questions of a file, by default the sample ones; at most so many.

    Args:
        path: A question a line; or JSON a line: a text, {"question": …} or {"messages": […]}.

    Raises:
        EngineError: it cannot be read, or holds none (kind `questions`).
    """
    file = path or DATA / "questions.jsonl"
    try:
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise EngineError(
            "questions", f"{file} cannot be read: {problem}", "name another"
        ) from None
    found = [_question(line, number, file) for number, line in enumerate(lines[:most], 1)]
    if not found:
        raise EngineError("questions", f"{file} holds no question", "write one on each line")
    return found


def _question(line: str, number: int, file: Path) -> str | list[Message]:
    if line.lstrip()[0] not in '{["':
        return line.strip()
    try:
        row = json.loads(line)
        if isinstance(row, dict):
            row = row.get("messages") or row.get("question") or row.get("prompt")
        if isinstance(row, str) and row.strip():
            return row
        if isinstance(row, list) and row:
            return [Message(str(m["role"]), str(m["content"])) for m in row]
    except (ValueError, TypeError, KeyError):
        pass
    raise EngineError(
        "questions",
        f"line {number} of {file} is no question",
        'write a text, {"question": "…"} or {"messages": [{"role": "user", "content": "…"}]}',
    )


def make_questions(
    asked: Iterable[str | list[Message]], documents: Documents | None
) -> list[Question]:
    """The prompts of the questions, as the chat makes them.

    Args:
        documents: Where passages are looked for; `None` to ask without.
    """
    found = []
    for each in asked:
        if isinstance(each, list):
            found.append(Question(each[-1].content, tuple(each)))
        elif documents is None:
            found.append(Question(each, (Message("system", PLAIN), Message("user", each))))
        else:
            prompt = build(each, documents.search(each, PASSAGES), [], 0, _ROOM)
            found.append(Question(each, prompt.messages, tuple(prompt.sources)))
    return found
