"""What both servers are asked in a comparison: people's own prompts, or questions on documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gearshift.bench.prompts import Messages, from_file
from gearshift.data import DATA
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


def read_questions(path: Path | None, most: int) -> list[str | Messages]:
    """The questions of a file, by default the sample ones; at most so many.

    Args:
        path: As `bench.prompts.from_file` reads it.

    Raises:
        GearshiftError: it cannot be read, or holds none.
    """
    chats = [session[0] for session in from_file(path or DATA / "questions.jsonl")[:most]]
    return [
        chat[0].content if [message.role for message in chat] == ["user"] else chat
        for chat in chats
    ]


def make_questions(asked: Iterable[str | Messages], documents: Documents | None) -> list[Question]:
    """The prompts of the questions, as the chat makes them.

    Args:
        documents: Where passages are looked for; `None` to ask without.
    """
    found = []
    for each in asked:
        if not isinstance(each, str):
            found.append(Question(each[-1].content, each))
        elif documents is None:
            found.append(Question(each, (Message("system", PLAIN), Message("user", each))))
        else:
            prompt = build(each, documents.search(each, PASSAGES), [], 0, _ROOM)
            found.append(Question(each, prompt.messages, tuple(prompt.sources)))
    return found
