"""A log as people have it, with frames, prefixes and colours, made ready to be searched."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from pathlib import Path

from gearshift.errors import EngineError

_HEAD, _TAIL = 2_000_000, 6_000_000  # bytes of a file that are read
_MOST = 600_000  # characters that are searched, after what repeats is left out
_LONGEST = 4_000  # characters of a line

_FRAME = re.compile(
    r"^(?:\x1b\[[\d;]*m|[>#*|│\s]"  # colours, quotes, comments, tables
    r"|[\w.-]{1,40} +\| "  # docker compose
    r"|\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-]\d\d:?\d\d)? (?:std(?:out|err) [FP] )?"  # Kubernetes
    r"|E   "  # pytest
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [\w.-]{1,80} [\w.()@-]{1,80}(?:\[\d+\])?: "  # journald
    r"|\([\w:. -]{1,60}pid=\d+(?:, ip=[\d.]+)?\)"  # vLLM's processes
    r"|(?:INFO|WARNING|ERROR|DEBUG|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? "
    r"(?:\[[^\]\s]{1,80}\]|[\w.]+:\d+\])"
    r")+"
)
_ASKED = re.compile(
    r"^\W*(?:[a-z_0-9]+=\S* )*"
    r"(?:vllm serve|docker (?:run|compose)|export |python3? -m|ollama (?:run|pull|serve|create)"
    r"|sudo |uv |pip3? |curl |gearshift |apt(?:-get)? |conda |git |nvidia-ctk |kubectl |helm )"
)
_BUILT = re.compile(r"\W*(?:RUN|CMD|ENTRYPOINT|COPY|ARG|LABEL|&&) ")  # in a Dockerfile
_ERROR = re.compile(r"\bERROR\b")
_WENT_WRONG = re.compile(
    r"error|exception|fatal|fail|cannot|could ?n.t|denied|→|[-=]>|[:;,] +['\"`]|\bkilled\b"
)
_SETTING = re.compile(  # of the environment, as `env`, compose files, Dockerfiles and units list it
    r"""\W*(?:(?:export|set|env|environment)\b[ =]"?)?"""
    r"""(?:(?!\w*(?:err|mess|msg|reason|detail|status|code))[a-z][a-z0-9]*_\w*["']?(?:: ?|=)"""
    r"""(?:"[^"\s]*"|'[^'\s]*'|[^\s"']*)[\s,"\\]*)+""",
    re.IGNORECASE,
)
_SETTINGS = re.compile(r'env="?map\[.{0,4000}?\]"?(?= |$)')  # as Ollama says when it starts
_CHANGE = re.compile(  # in a list of changes: what was mended, not what happened
    r"\W*(?:(?:fix|feat|chore|docs|perf|refactor|test|ci|build)(?:\([\w./ -]+\))?!?: "
    r"|(?:.{0,300}\(#\d+\)|.{0,300} in (?:#\d+|https://\S+/pull/\d+))$)"
)
_LOOKALIKES = str.maketrans({"’": "'", "‘": "'", "−": "-", "–": "-", "“": '"', "”": '"'})
COLOUR = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_LEVEL = re.compile(
    r"(?:(?<![\w=])|(?<=level=))"
    r"(?:(?P<info>debug|info|ignor(?:e|ing) (?:\w+ )?errors?)|warn|warning|\w+warning)"
    r"\b(?! messages?\b)"
)
_ORDINARY = re.compile(
    r'throughput: |"object": ?"(?:chat\.|text_)completion|Requires-Dist: |level=TRACE |'
    r'msg="(?:completion|chat|embedding) request"|Received request \S+: prompt|'  # people's words
    r'"(?:GET|POST|HEAD) \S+ HTTP/1\.\d" [23]\d\d'
)
_TROUBLE = re.compile(
    r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b|\b(?:ERROR|FATAL|CRITICAL|error|fatal|failed|panic)\b"
)


class Level(IntEnum):
    """How serious a line says that it is."""

    ERROR = 0
    WARNING = 1
    INFO = 2


@dataclass(frozen=True)
class Log:
    """The lines as they are, and the text that is searched, a line of it for each of theirs.

    Attributes:
        cleaned: Without frames and prefixes; empty lines stand for what repeats earlier ones.
        left_out: Bytes of a large file that were not read, from its middle.
    """

    lines: tuple[str, ...]
    first_line: tuple[int, ...]
    cleaned: str
    left_out: int = 0

    def number(self, position: int) -> int:
        """The line, from 1, of a position in the cleaned text."""
        return bisect_right(self.first_line, position)

    def level(self, number: int) -> Level:
        """What the line calls itself; all that say nothing count as errors.

        A command tells what was asked for, not what happened, unless its error stands beside it.
        """
        whole = self.lines[number - 1][:_LONGEST]
        line = whole.lower()
        found = _LEVEL.search(line, 0, 100)
        if _ERROR.search(whole, 0, 100):
            return Level.ERROR
        if found is None:
            asked = _ASKED.match(line) or _BUILT.match(whole)
            told = bool(asked) and not _WENT_WRONG.search(line)
            return Level.INFO if told or _CHANGE.match(line) else Level.ERROR
        return Level.INFO if found["info"] else Level.WARNING

    def first_trouble(self) -> int | None:
        """The first line that looks like an error, `None` if none does."""
        start = 0
        for number, line in enumerate(self.cleaned.split("\n"), 1):
            if _TROUBLE.search(line) and self.level(number) is Level.ERROR:
                return number
            start += len(line) + 1
        return None


def make_log(text: str, left_out: int = 0) -> Log:
    """A log from its text."""
    lines = tuple(line.rstrip("\r") for line in text.split("\n"))
    cleaned = list(_clean(lines))
    if sum(map(len, cleaned)) > _MOST:  # the middle is what tells least
        cleaned = _without_middle(cleaned)
    starts = tuple(accumulate((len(line) + 1 for line in cleaned[:-1]), initial=0))
    return Log(lines, starts, "\n".join(cleaned), left_out)


def read_log(path: Path) -> Log:
    """A log from a file; of a very large one the beginning and the end.

    Raises:
        EngineError: it cannot be read (kind `log`).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD + _TAIL + 1)
            size = len(data)
            if size > _HEAD + _TAIL:
                size = file.seek(0, 2)
                file.seek(max(_HEAD, size - _TAIL))
                data = data[:_HEAD] + b"\n" + file.read()
    except OSError as wrong:
        raise EngineError(
            "log", f"{path} cannot be read: {wrong.strerror}", "give the path of a log, or - "
        ) from None
    return make_log(decode(data), max(0, size - len(data)))


def log_of(data: bytes) -> Log:
    """A log from what was handed in; of a very large one the beginning and the end."""
    size = len(data)
    if size > _HEAD + _TAIL:
        data = data[:_HEAD] + b"\n" + data[-_TAIL:]
    return make_log(decode(data), max(0, size - len(data)))


def decode(data: bytes) -> str:
    """Text in the encodings that logs come in: UTF-8, and what PowerShell's `>` writes."""
    for mark, encoding in (
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
        (b"\xef", "utf-8-sig"),
    ):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def _clean(lines: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for line in lines:
        if _ORDINARY.search(line) or _SETTING.fullmatch(line, 0, _LONGEST):
            yield ""
            continue
        text = _FRAME.sub("", COLOUR.sub("", line[:_LONGEST])).rstrip()
        text = _SETTINGS.sub("", text).replace("\\n", "  ").replace('\\"', ' "')
        text = text.translate(_LOOKALIKES)
        essence = re.sub(r"\d+", "0", text)
        if essence in seen and len(essence) > 3:
            yield ""
            continue
        seen.add(essence)
        yield text


def _without_middle(lines: list[str]) -> list[str]:
    """As much of the beginning and the end as is searched."""
    ends = list(accumulate(len(line) + 1 for line in lines))
    half = _MOST // 2
    return [
        line if end <= half or end > ends[-1] - half else ""
        for line, end in zip(lines, ends, strict=True)
    ]
