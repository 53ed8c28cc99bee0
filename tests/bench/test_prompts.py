"""What the people of a load ask."""

from itertools import pairwise

import pytest

from gearshift.bench.prompts import Workload, conversations, questions, run_mark, synthetic
from gearshift.errors import GearshiftError
from gearshift.rag.conversations import Conversation, save
from gearshift.rag.prompt import SYSTEM, estimate
from gearshift.schemas import Answer, State, Timings


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
    one, other = (Workload.of("questions", sessions, run_mark(1, number)) for number in (0, 1))
    for mine, theirs in zip(one.bodies, other.bodies, strict=True):
        assert mine["messages"][0]["content"][:9] != theirs["messages"][0]["content"][:9]
        assert mine["messages"][1:] == theirs["messages"][1:]
    assert one.sessions == other.sessions
    assert run_mark(1, 0) == run_mark(1, 0)


def test_synthetic_prompts_have_so_many_words_and_differ():
    sessions = synthetic(50, 3, 40)
    texts = [messages[0].content for (messages,) in sessions]
    assert {len(one.split()) for one in texts} == {40}
    assert {len(word) for one in texts for word in one.split()} == {4}
    assert len(set(texts)) == 50


def test_conversations_are_sent_again_as_they_were(home):
    with pytest.raises(GearshiftError, match="there is no conversation"):
        conversations(home)
    turns = [
        Answer(f"Question {i}", Timings(0.0), state, f"Sources … {i}", f"Answer {i}")
        for i, state in enumerate((State.DONE, State.FAILED, State.DONE))
    ]
    save(home, Conversation(turns=turns))
    ((first, second),) = conversations(home)
    assert [m.content for m in second[1:]] == ["Sources … 0", "Answer 0", "Sources … 2"]
    assert text(second).startswith(text(first))
