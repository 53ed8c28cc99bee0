"""What vLLM's start-up log says: how far it is, and if it fails, the line that tells why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_PREFIX = re.compile(
    r"^(\([\w:. -]+ pid=\d+(, ip=[\d.]+)?\) ?)?"  # the process
    r"((INFO|WARNING|ERROR|DEBUG|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \[[^\]]*\] ?)?"
)
_TIMES = re.compile(r"pid=\d+|\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?|\d+:\d\d(:\d\d)?")
_ROUTINE = re.compile(r'"(GET|POST|HEAD) /|throughput: ')  # answers to our own questions, figures


class Stage(NamedTuple):
    """What a server does while it starts, in words, and how far that is (0 to 1)."""

    words: str
    progress: float | None = None


# The order of a start-up; the first pattern that a line has decides.
_STAGES = [
    (r"(Fetching|Downloading).*?(?P<percent>\d+)%", "downloading the weights"),
    (r"(checkpoint shards|Loading weights|tensors).*?(?P<percent>\d+)%", "loading weights"),
    (r"[Ss]tarting to load model|Loading weights on|Loading model from", "loading weights"),
    (r"[Dd]ownloading weights|Time spent downloading", "downloading the weights"),
    (r"(Capturing|graph).*?(?P<percent>\d+)%", "capturing CUDA graphs"),
    (r"Dynamo bytecode|Compiling a graph|torch\.compile takes|Start compil", "compiling"),
    (r"Loading weights took|Model loading took|Memory profiling|profile_run", "measuring memory"),
    (r"KV cache size|Maximum concurrency|# (GPU|CPU) blocks", "making room for the KV cache"),
    (r"Warming up|Capturing|Graph capturing", "warming up"),
    (r"init engine|Starting vLLM (API )?server|Started server process", "opening the port"),
    (r"Application startup complete", "answering its first question"),
    (r"Initializing a V\d LLM engine|Initializing an LLM engine", "making the engine"),
    (r"non-default args|vLLM API server version|Resolved architecture", "reading the model"),
]
_COMPILED = [(re.compile(pattern), words) for pattern, words in _STAGES]
_ANY = re.compile("|".join(re.sub(r"\?P<percent>", "", pattern) for pattern, _ in _STAGES))


def stage(line: str) -> Stage | None:
    """The stage that a line of the log speaks of, if it does."""
    for pattern, words in _COMPILED if _ANY.search(line) else ():
        if found := pattern.search(line):
            percent = found.groupdict().get("percent")
            return Stage(words, min(int(percent), 100) / 100 if percent else None)
    return None


def essence(line: str) -> str:
    """The line without times and pids: one whose essence is empty or came before is no progress."""
    return "" if _ROUTINE.search(line) else _TIMES.sub("", line).strip()


_EXCEPTION = re.compile(
    r"^(?P<type>([A-Za-z_][\w.]*\.)?[A-Z]\w*(Error|Exception|Interrupt|Exit|Refused|Timeout))"
    r"(: ?(?P<text>.*))?$"
)
_WRAPPERS = re.compile(
    r"Engine core initialization failed|See root cause above|EngineDeadError|WorkerProc init"
    r"|WorkerProc initialization failed|Executor failed|EngineCore encountered an issue"
    r"|EngineGenerateError|cancelled|CancelledError|SystemExit|BrokenPipeError|KeyboardInterrupt"
    r"|ProcessExitedException|failed to start|Failed core proc"
)
_TELLING = re.compile(
    r"^(vllm serve|api_server\.py|usage: .*)?:? ?error: |^Killed$|^Segmentation fault|^OSError: "
    r"|CUDA out of memory|No module named|^docker: |^ERROR: "
)


def root_cause(lines: Iterable[str]) -> str | None:
    """The line that tells why a start failed: the first exception that is no wrapper of another.

    A pydantic error is told by its `Value error, …` line, without the library's own frame.
    """
    wrapper = None
    exception = None
    texts = [_PREFIX.sub("", line.rstrip()) for line in lines]
    for number, text in enumerate(texts):
        found = _EXCEPTION.match(text.strip())
        if found is None:
            if exception is None and _TELLING.search(text.strip()):
                exception = text.strip()
            continue
        if _WRAPPERS.search(text):
            wrapper = wrapper or text.strip()
        elif exception is None:
            exception = _whole(text.strip(), texts[number + 1 : number + 6])
    return exception or wrapper


def _whole(text: str, following: list[str]) -> str:
    if "validation error" in text:
        for line in following:
            if line.strip().startswith(("Value error, ", "Assertion failed, ", "Input should")):
                return re.sub(r" \[type=.*$", "", line.strip())
    return text
