"""Ten thousand damaged streams: none is ever reported as a whole answer that it is not.

The oracle reads the damaged bytes in the plainest way there is. Where a reader reports success, the
oracle must find the proof of the end, no error, nothing unreadable, and the very same text.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gearshift.errors import ProviderError
from gearshift.providers._openai import OpenAIReader
from gearshift.providers.ollama import OllamaReader
from scripted_server import ndjson, sse

TEXTS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5)


@st.composite
def damaged(draw, whole):
    """A good stream with one to three cuts, losses, repetitions or insertions, in pieces."""
    data = whole(*draw(TEXTS))
    for _ in range(draw(st.integers(1, 3))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        kind = draw(st.sampled_from(["cut", "lose", "repeat", "insert", "lose line", "swap"]))
        lines = data.splitlines(keepends=True)
        if kind == "cut":
            data = data[:a]
        elif kind == "lose":
            data = data[:a] + data[b:]
        elif kind == "repeat":
            data = data[:b] + data[a:]
        elif kind == "insert":
            data = data[:a] + draw(st.binary(max_size=6)) + data[a:]
        elif lines:
            i, j = (draw(st.integers(0, len(lines) - 1)) for _ in "ij")
            if kind == "swap":
                lines[i], lines[j] = lines[j], lines[i]
            else:
                del lines[i]
            data = b"".join(lines)
    step = draw(st.integers(1, max(1, len(data))))
    return [data[i : i + step] for i in range(0, len(data), step)]


def read(reader, pieces):
    """The text that a reader reports as whole; `None` when it raises."""
    chunks = []
    try:
        for piece in pieces:
            reader.feed(piece, chunks)
            if reader.finished:
                break
        reader.end(chunks)
    except ProviderError:
        return None
    assert chunks[-1].finish_reason is not None
    return "".join(chunk.text for chunk in chunks)


def sse_truth(data):
    """The text of a stream of events that is whole; `None` of one that is not."""
    text, finished, block = "", False, []
    for raw in [*data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), b""]:
        line = raw.removesuffix(b"\r")
        if line.startswith(b"data:"):
            block.append(line[5:].removeprefix(b" "))
            continue
        if line or not block:
            continue
        event, block = b"\n".join(block), []
        if event == b"[DONE]":
            return text if finished else None
        try:
            record = json.loads(event)
        except ValueError:
            return text if finished else None  # what is cut off behind the proof does not matter
        if not isinstance(record, dict) or record.get("error") is not None:
            return None
        for choice in record.get("choices") or []:
            if choice.get("index", 0) == 0:
                text += (choice.get("delta") or {}).get("content") or ""
                finished = finished or choice.get("finish_reason") is not None
    return text if finished else None


def ndjson_truth(data):
    text = ""
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            return None
        if not isinstance(record, dict) or record.get("error") is not None:
            return None
        text += (record.get("message") or {}).get("content") or ""
        if record.get("done"):
            return text
    return None


@pytest.mark.parametrize(
    ("make_reader", "whole", "truth"),
    [(OpenAIReader, sse, sse_truth), (OllamaReader, ndjson, ndjson_truth)],
    ids=["sse", "ndjson"],
)
def test_a_damaged_stream_is_never_a_false_success(make_reader, whole, truth):
    successes = 0

    @settings(
        max_examples=5_000,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(whole))
    def check(pieces):
        nonlocal successes
        text = read(make_reader("the server"), pieces)
        if text is not None:
            successes += 1
            data = b"".join(pieces)
            assert text == truth(data), data

    check()
    assert successes > 50, "hardly anything was read: the test would prove nothing"


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(TEXTS, st.integers(1, 40))
def test_a_good_stream_is_exact_however_it_is_cut_into_blocks(texts, step):
    for make_reader, whole in ((OpenAIReader, sse), (OllamaReader, ndjson)):
        data = whole(*texts)
        pieces = [data[i : i + step] for i in range(0, len(data), step)]
        assert read(make_reader("the server"), pieces) == "".join(texts)
