"""What the people of a load ask: RAG questions as the chat sends them, a file, or made-up text.

A session is what one person asks one after the other, each prompt beginning with the one before it,
as a chat's do. Within a run prompts share beginnings as they really would: the system message,
popular passages, a conversation's earlier turns. Across runs they share nothing, also when the same
command is given again: each run's prompts begin with a mark of its own, else the second run would
find those of the first in the server's prefix cache.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.data import DATA
from gearshift.errors import GearshiftError
from gearshift.rag import library
from gearshift.rag.chat import PASSAGES
from gearshift.rag.conversations import load
from gearshift.rag.prompt import PLAIN, SYSTEM, build, estimate
from gearshift.schemas import Answer, Message, State, Timings

Messages = tuple[Message, ...]

_TURNS = (1, 2, 3)  # questions that one person asks in a session
_MARKED = 4  # words
_JSON_LINES = (".jsonl", ".ndjson")
_HOW = 'write {"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
# Words of four letters that nearly every tokenizer takes as one token, so that the tokens of a text
# are a constant for each word and a constant for the template.
_WORDS = [
    "that", "with", "have", "this", "will", "your", "from", "they", "know", "want", "been",
    "good", "much", "some", "time", "very", "when", "come", "here", "just", "like", "long",
    "make", "many", "more", "only", "over", "such", "take", "than", "them", "well", "were",
    "what", "back", "call", "down", "each", "even", "find", "give", "hand", "high", "home",
    "keep", "last", "left", "life", "line", "live", "look", "main", "mean", "most", "move",
    "must", "name", "need", "next", "open", "part", "play", "read", "same", "seem", "show",
    "side", "tell", "turn", "used", "work", "year", "best", "both", "city",
]  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What is sent: payload fields of each prompt, and the sessions that name prompts by index.

    Attributes:
        name: In words, for the report.
        bodies: `messages`, and what else differs from prompt to prompt.
    """

    name: str
    bodies: list[dict[str, Any]]
    sessions: list[list[int]]

    @classmethod
    def of(cls, name: str, sessions: Sequence[Sequence[Messages]], mark: str = "") -> Workload:
        """From what each person asks; `mark` stands in front of all of it."""
        bodies: list[dict[str, Any]] = []
        numbered: list[list[int]] = []
        for session in sessions:
            numbered.append(list(range(len(bodies), len(bodies) + len(session))))
            bodies += [{"messages": _marked(messages, mark)} for messages in session]
        return cls(name, bodies, numbered)


def _marked(messages: Messages, mark: str) -> list[dict[str, str]]:
    first, *rest = (message.as_dict() for message in messages)
    if mark:
        first["content"] = f"{mark}\n{first['content']}"
    return [first, *rest]


def questions(
    requests: int, seed: int | str, room: int, passages: int = PASSAGES
) -> list[list[Messages]]:
    """Sessions of one to three questions about the handbook, retrieved and built as a chat's.

    A follow-up's prompt holds the turns before it with the answers of `data/questions.jsonl`, so
    that it is the same whatever the server has answered.

    Args:
        room: Tokens that a prompt may take.
        passages: The most passages of one question.
    """
    rows = [
        json.loads(line)
        for line in (DATA / "questions.jsonl").read_text("utf-8").splitlines()
        if line.strip()
    ]
    documents = library.sample()
    dice = random.Random(seed)
    found = {row["question"]: documents.search(row["question"], PASSAGES) for row in rows}
    order: list[dict[str, str]] = []
    sessions: list[list[Messages]] = []
    count = 0
    while count < requests:
        turns: list[Answer] = []
        session: list[Messages] = []
        first_turn = 0
        for _ in range(dice.choice(_TURNS)):
            if not order:
                order = dice.sample(rows, len(rows))
            row = order.pop()
            prompt = build(
                row["question"], found[row["question"]], turns, first_turn, room, passages
            )
            first_turn = prompt.first_turn
            session.append(prompt.messages)
            turns.append(
                Answer(
                    row["question"],
                    Timings(0.0),
                    State.DONE,
                    prompt.messages[-1].content,
                    row["answer"],
                    sources=prompt.sources,
                )
            )
        sessions.append(session)
        count += len(session)
    return sessions


def synthetic(requests: int, seed: int | str, words: int, mark: str = "") -> list[list[Messages]]:
    """Prompts of so many words that share nothing; one a session.

    A mark decides the first words, of which prefix caches hold the first block.
    """
    dice, first = random.Random(seed), random.Random(mark)
    sessions = []
    for _ in range(requests):
        chosen = dice.choices(_WORDS, k=max(1, words))
        if mark:
            chosen[:_MARKED] = first.choices(_WORDS, k=len(chosen[:_MARKED]))
        sessions.append([_asked(" ".join(chosen))])
    return sessions


def from_file(path: Path) -> list[list[Messages]]:
    """Sessions of a file: JSON lines (`.jsonl`, `.ndjson`), a JSON list (`.json`), or text lines.

    A prompt in JSON is a string, a list of messages (`role`, `content`), or an object with
    `messages`, `prompt` or `question`. Each is a session of one prompt.

    Raises:
        GearshiftError: it cannot be read, or holds no prompt.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as wrong:
        raise GearshiftError(f"cannot read {path}: {wrong}", hint="name a UTF-8 file") from None
    suffix = path.suffix.lower()
    if suffix == ".json":
        rows = _parsed(text, str(path))
        if not isinstance(rows, list):
            raise GearshiftError(f"{path} is no list of prompts", hint='write ["…", "…"]')
        found = [_prompt(row, f"{path}, prompt {number}") for number, row in enumerate(rows, 1)]
    else:
        lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [
            _prompt(_parsed(line, where), where) if suffix in _JSON_LINES else _asked(line)
            for number, line in lines
            for where in (f"{path}, line {number}",)
        ]
    if not found:
        raise GearshiftError(f"there is no prompt in {path}", hint="write one a line")
    return [[messages] for messages in found]


def _asked(text: str) -> Messages:
    return (Message("user", text),)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as wrong:
        raise GearshiftError(f"{where} is not JSON: {wrong}", hint=_HOW) from None


def _prompt(row: Any, where: str) -> Messages:
    if isinstance(row, dict):
        row = row.get("messages") or row.get("prompt") or row.get("question")
    wrong = GearshiftError(f"{where} holds no prompt", hint=_HOW)
    if isinstance(row, str) and row.strip():
        found = _asked(row)
    elif isinstance(row, list) and row:
        try:
            found = tuple(Message(str(one["role"]), _said(one["content"])) for one in row)
        except (TypeError, KeyError):
            raise wrong from None
    else:
        raise wrong
    try:
        "".join(one.role + one.content for one in found).encode()
    except UnicodeEncodeError:
        half = "holds half a character (a lone surrogate), which no server takes"
        raise GearshiftError(f"{where} {half}", hint="remove it from the text") from None
    return found


def _said(content: Any) -> str:
    """The text of a message, which may come in parts; only text can be measured."""
    if isinstance(content, str):
        return content
    if any(part["type"] != "text" for part in content):
        raise TypeError
    return "".join(part["text"] for part in content)


def conversations(home: Path, room: int) -> list[list[Messages]]:
    """The conversations of this installation, each a session, turn by turn as they were sent.

    Args:
        room: Tokens that a prompt may take: the oldest turns are left out, as a chat leaves them.

    Raises:
        GearshiftError: there are none.
    """
    sessions = []
    for path in sorted((home / "conversations").glob("*.json")):
        found = load(home, path.stem)
        if found and (turns := [turn for turn in found.turns if turn.complete]):
            sessions.append(_session(turns, room))
    if not sessions:
        raise GearshiftError(
            f"there is no conversation in {home / 'conversations'}",
            hint="ask something in the chat first, or measure with the sample questions",
        )
    return sessions


def _session(turns: Sequence[Answer], room: int) -> list[Messages]:
    system = Message("system", SYSTEM if any(turn.sources for turn in turns) else PLAIN)
    session = []
    said: Messages = ()
    for turn in turns:
        asked = Message("user", turn.prompt or turn.question)
        while said and sum(estimate(one.content) for one in (system, *said, asked)) > room:
            said = said[2:]
        session.append((system, *said, asked))
        said = (*said, asked, Message("assistant", turn.text))
    return session
