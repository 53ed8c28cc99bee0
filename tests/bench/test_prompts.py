"""What the people of a load ask."""

from itertools import pairwise

import pytest

from gearshift.bench.prompts import Workload, conversations, from_file, questions, synthetic
from gearshift.errors import GearshiftError
from gearshift.rag.conversations import Conversation, save
from gearshift.rag.prompt import SYSTEM, estimate
from gearshift.schemas import Answer, Passage, Source, State, Timings


def text(messages):
    return "".join(f"{m.role}: {m.content}" for m in messages)


def test_questions_share_their_beginnings_as_a_chats_do(embedding_home):
    sessions = questions(30, 1, room=12_000)
    assert sum(map(len, sessions)) >= 30
    assert {len(session) for session in sessions} == {1, 2, 3}
    assert sessions == questions(30, 1, room=12_000)
    assert sessions != questions(30, 2, room=12_000)
    for session in sessions:
        for messages in session:
            assert messages[0].content == SYSTEM
            assert "Sources:\n\n[" in text(messages)
            assert sum(estimate(m.content) for m in messages) <= 12_000
        for sooner, later in pairwise(session):
            assert text(later).startswith(text(sooner)), "a follow-up goes on with what was said"
            assert later[-2].role == "assistant"
    assert len({text(session[0]) for session in sessions}) == len(sessions)


def test_runs_share_nothing_with_each_other(embedding_home):
    sessions = questions(4, 1, room=12_000)
    one, other = (Workload.of("questions", sessions, f"({number})") for number in (0, 1))
    for mine, theirs in zip(one.bodies, other.bodies, strict=True):
        assert mine["messages"][0]["content"][:3] != theirs["messages"][0]["content"][:3]
        assert mine["messages"][1:] == theirs["messages"][1:]
    assert one.sessions == other.sessions


def test_synthetic_prompts_have_so_many_words_and_differ():
    sessions = synthetic(50, 3, 40)
    texts = [messages[0].content for (messages,) in sessions]
    assert {len(one.split()) for one in texts} == {40}
    assert {len(word) for one in texts for word in one.split()} == {4}
    assert len(set(texts)) == 50
    marked = [messages[0].content for (messages,) in synthetic(50, 3, 40, "a mark")]
    for plain, other in zip(texts, marked, strict=True):
        assert plain.split()[:4] != other.split()[:4]
        assert plain.split()[4:] == other.split()[4:]


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [
        ("a.txt", "\ufeffWhy?\r\n\n  How?\n", ["Why?", "How?"]),
        ("a.jsonl", '\ufeff"One\u2028line"\n{"question": "Who?"}\n', ["One\u2028line", "Who?"]),
        ("a.json", '["Why?",\n {"prompt": "How?"}]', ["Why?", "How?"]),
        ("a.NDJSON", '{"prompt": "Why?"}', ["Why?"]),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Parts?"}]}]}',
            ["Parts?"],
        ),
    ],
)
def test_a_file_is_read_as_people_write_it(tmp_path, name, text, asked):
    file = tmp_path / name
    file.write_text(text, "utf-8", newline="")
    assert [session[0][0].content for session in from_file(file)] == asked


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", " \n", "there is no prompt"),
        ("a.jsonl", '"Why?"\nHow?', "line 2 is not JSON"),
        ("a.json", '{"prompt": "Why?"}', "is no list of prompts"),
        ("a.json", '["Why?", 3]', "prompt 2 holds no prompt"),
        ("a.jsonl", '{"prompt": "cut \\ud83d"}', "line 1 holds half a character"),
        (
            "a.jsonl",
            '[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]',
            "line 1 holds no prompt",
        ),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text, "utf-8")
    with pytest.raises(GearshiftError, match=said):
        from_file(file)


def test_conversations_are_sent_again_as_they_were(home):
    with pytest.raises(GearshiftError, match="there is no conversation"):
        conversations(home, 1000)
    turns = [
        Answer(f"Question {i}", Timings(0.0), state, f"Sources … {i}", f"Answer {i}")
        for i, state in enumerate((State.DONE, State.FAILED, State.DONE))
    ]
    save(home, Conversation(turns=turns))
    ((first, second),) = conversations(home, 1000)
    assert [m.content for m in second[1:]] == ["Sources … 0", "Answer 0", "Sources … 2"]
    assert text(second).startswith(text(first))
    ((_, short),) = conversations(home, estimate(first[0].content) + 10)
    assert [m.content for m in short[1:]] == ["Sources … 2"]  # as a chat leaves out what is old


def test_a_conversation_with_documents_begins_as_it_did(home):
    passage = Passage("p", "a.md", "Text", 0, 4)
    turn = Answer(
        "Why?", Timings(0.0), State.DONE, "Sources …", "So", sources=[Source(1, passage, 1.0)]
    )
    save(home, Conversation(turns=[turn]))
    (((system, _),),) = conversations(home, 1000)
    assert system.content == SYSTEM
