"""A turn: retrieval, prompt, fallback, citations, record; and conversations on disk."""

import asyncio
import time

import pytest

from gearshift.errors import GearshiftError, ServerFailed
from gearshift.providers import LLMServiceFactory, breaker, chain, run
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.rag import jobs
from gearshift.rag.chat import Ask, begin, write_answer
from gearshift.rag.citations import Citer, marks, sentences
from gearshift.rag.conversations import Conversation, load, opened, save
from gearshift.rag.embedders import MiniLM
from gearshift.rag.jobs import Job
from gearshift.schemas import CitedBy, Hit, Passage, Source, State
from hashing import Hashing
from scripted_server import ndjson, ollama, sse, vllm

TEXTS = [
    "vLLM listens on port 8001 by default in this guide.",
    "Tensor parallelism splits a model across several GPUs of one machine.",
    "To go back to Ollama, set LLM_PROVIDER to ollama and restart.",
]
HITS = [
    Hit(Passage(f"{i:016x}-0", f"doc{i}.md", text, 0, len(text), ("Guide",)), 1.0 - i / 10)
    for i, text in enumerate(TEXTS)
]


@pytest.fixture
def citer(embedding_home):
    return Citer(MiniLM(embedding_home))


@pytest.fixture
def services(serve, make_settings):
    """vLLM, then Ollama, with the given answers; `None` is a server that is not there."""

    def make(first):
        settings = {}
        servers = []
        for name, script, answer in (
            ("vllm", vllm, first),
            ("ollama", ollama, ndjson("From Ollama.")),
        ):
            if answer is not None:
                servers.append(serve(script(answer)))
                settings[f"{name}_base_url"] = servers[-1].url
        made = make_settings(**settings)
        return [VLLMService(made), OllamaService(made)], servers

    return make


class Found:
    """Documents in which every search finds the same passages."""

    def __init__(self, hits=HITS, embedder=None):
        self.embedder = embedder or Hashing()
        self._hits = hits

    def search(self, query, k):
        return self._hits[:k]


async def asked(conversation, services, question="Which port?", documents=Found, **options):
    ask = Ask(question, services, documents, **options)
    return await write_answer(ask, conversation, begin(conversation, question))


async def test_an_answer_carries_who_wrote_it_and_from_what(services):
    pair, _ = services(sse("vLLM listens on port 8001 [1]."))
    answer = await asked(Conversation(), pair)
    assert (answer.state, answer.provider, answer.model) == (State.DONE, "vllm", "served")
    assert answer.fallback_from is None
    assert [s.number for s in answer.sources] == [1, 2, 3]
    (citation,) = answer.citations
    assert (citation.number, citation.passage, citation.by) == (
        1,
        HITS[0].passage.id,
        CitedBy.MODEL,
    )
    assert 0 <= answer.timings.retrieval_s <= answer.timings.ttft_s <= answer.timings.total_s


async def test_the_second_turns_prompt_begins_with_the_firsts(services):
    pair, (server, _) = services(sse("Port 8001 [1]."))
    conversation = Conversation()
    await asked(conversation, pair)
    await asked(conversation, pair, "And how do I go back?")
    first, second = (r.json["messages"] for r in server.requests if "chat" in r.path)
    assert second[: len(first)] == first
    assert second[len(first)] == {"role": "assistant", "content": "Port 8001 [1]."}
    assert TEXTS[0] not in second[-1]["content"], "a passage was sent twice"


async def test_a_dead_provider_is_replaced_before_the_first_token_and_it_is_said(services):
    pair, _ = services(None)
    answer = await asked(Conversation(), pair)
    assert (answer.text, answer.provider, answer.fallback_from) == (
        "From Ollama.",
        "ollama",
        "vllm",
    )
    assert "cannot be reached" in answer.skipped["vllm"]


async def test_after_the_first_token_nothing_is_replaced(services):
    pair, (_, second) = services(sse("Half an", finish=None, done=False, usage=None))
    answer = await asked(Conversation(), pair)
    assert (answer.state, answer.text) == (State.FAILED, "Half an")
    assert answer.error["kind"] == "truncated"
    assert answer.error["partial"] == "Half an"
    assert not [r for r in second.requests if "chat" in r.path]


async def test_a_hanging_provider_is_replaced_within_its_budget(services):
    async def hang(exchange):
        await exchange.until_closed()

    pair, _ = services(hang)
    answer = await asyncio.wait_for(asked(Conversation(), pair), 6)
    assert (answer.provider, answer.fallback_from) == ("ollama", "vllm")


async def test_a_provider_that_just_failed_is_not_asked_at_once_again(services):
    async def fail(exchange):
        await exchange.reply({"error": {"message": "dead"}}, 500)

    pair, (first, _) = services(fail)
    for _ in range(3):
        assert (await asked(Conversation(), pair)).provider == "ollama"
    assert len([r for r in first.requests if "chat" in r.path]) == 1
    breaker.worked(pair[0])
    await asked(Conversation(), pair)
    assert len([r for r in first.requests if "chat" in r.path]) == 2


async def test_the_last_provider_is_asked_whatever_the_breaker_holds(services):
    pair, _ = services(None)
    for service in pair:
        breaker.failed(service, GearshiftError("earlier"))
    assert (await asked(Conversation(), pair)).text == "From Ollama."


async def test_a_prompt_that_is_too_long_is_trimmed_once_and_what_went_is_named(services):
    error = {"error": {"message": "too long", "type": "BadRequestError", "param": "input_tokens"}}
    long = [
        Hit(Passage(f"{i:016x}-0", f"d{i}.md", "word " * 400, 0, 2000), 1.0 - i / 10)
        for i in range(5)
    ]

    async def picky(exchange):
        if len(exchange.body) > 8_000:
            await exchange.reply(error, 400)
        else:
            await exchange.head()
            await exchange.send(sse("Short."))

    pair, (_, second) = services(picky)
    answer = await asked(Conversation(), pair, documents=lambda: Found(long))
    assert (answer.text, answer.provider) == ("Short.", "vllm")
    assert {item.what for item in answer.dropped} == {"passage"}
    assert len(answer.dropped) + len(answer.sources) == 5
    assert not second.requests


async def test_a_model_that_somebody_insists_on_is_not_replaced(services):
    async def missing(exchange):
        await exchange.reply({"error": {"message": "no such", "type": "NotFoundError"}}, 404)

    pair, _ = services(missing)
    answer = await asked(Conversation(), pair, model="nope", insist=True)
    assert answer.error["kind"] == "model_not_found"
    assert "served" in answer.error["hint"]


async def test_an_answer_that_a_filter_cut_is_not_whole(services):
    pair, _ = services(sse("I must", finish="content_filter"))
    answer = await asked(Conversation(), pair)
    assert (answer.state, answer.text) == (State.FAILED, "I must")
    assert "content_filter" in answer.error["message"]


async def test_old_turns_go_when_the_context_is_full_and_are_named(serve, make_settings):
    server = serve(vllm(sse("word " * 150), context=1024))
    service = VLLMService(make_settings(vllm_base_url=server.url))
    conversation = Conversation()
    for i in range(6):
        answer = await asked(conversation, [service], f"Question {i}?")
        assert answer.state is State.DONE
    assert any(item.what == "turn" for item in answer.dropped)
    assert conversation.first_turn > 0


async def test_a_prompt_that_the_server_cut_without_a_word_is_told(serve, make_settings):
    long = [Hit(Passage("0-0", "d.md", "word " * 900, 0, 4500), 1.0)]
    server = serve(vllm(sse("Fine.", usage=(512, 1))))
    service = VLLMService(make_settings(vllm_base_url=server.url))
    answer = await asked(Conversation(), [service], documents=lambda: Found(long))
    (item,) = answer.dropped
    assert item.what == "prompt"
    assert "512" in item.name


async def test_helps_that_lie_or_hang_do_not_stop_a_chat(serve, make_settings):
    async def script(exchange):
        if "chat" in exchange.path:
            await exchange.head()
            await exchange.send(sse("Fine."))
        else:
            await exchange.until_closed()

    service = VLLMService(make_settings(vllm_base_url=serve(script).url))
    answer = await asked(Conversation(), [service])
    assert (answer.text, answer.model) == ("Fine.", "mistral")

    async def lies(exchange):
        if "chat" in exchange.path:
            await exchange.head()
            await exchange.send(sse("Fine."))
        else:
            await exchange.reply({"data": [{"id": 7}, {"id": "m", "max_model_len": -5}, None]})

    service = VLLMService(make_settings(vllm_base_url=serve(lies).url))
    assert (await asked(Conversation(), [service])).model == "m"


async def test_what_ollama_lists_and_shows_may_be_wrong(serve, make_settings):
    lists = [
        ({"models": []}, "mistral"),
        (
            {"models": [{"name": "m:latest", "details": {"families": 7, "parameter_size": 3}}]},
            "m:latest",
        ),
        ({"models": [{"name": "m:latest", "details": "none", "size": "big"}]}, "m:latest"),
    ]
    for listed, expected in lists:

        async def script(exchange, listed=listed):
            if exchange.path == "/api/chat":
                await exchange.head(kind="application/x-ndjson")
                await exchange.send(ndjson("Fine."))
            elif exchange.path == "/api/tags":
                await exchange.reply(listed)
            else:
                await exchange.reply({"error": "not found"}, 404)

        service = OllamaService(make_settings(ollama_base_url=serve(script).url))
        answer = await asked(Conversation(), [service])
        assert (answer.text, answer.model) == ("Fine.", expected)


async def test_a_fallback_that_refuses_hides_nothing_and_ends_nothing(
    services, serve, make_settings
):
    async def refuse(exchange):
        await exchange.reply({"error": "does not support chat"}, 400)

    second = OllamaService(make_settings(ollama_base_url=serve(ollama(refuse)).url))
    pair, _ = services(None)
    answer = await asked(Conversation(), [pair[0], second])
    assert answer.error["kind"] == "unreachable"
    assert "does not support chat" in answer.skipped["ollama"]
    third = VLLMService(make_settings(vllm_base_url=serve(vllm(sse("Third."))).url))
    third.name = "third"
    answer = await asked(Conversation(), [pair[0], second, third])
    assert (answer.text, answer.fallback_from) == ("Third.", "vllm")
    assert answer.skipped.keys() == {"vllm", "ollama"}


SOURCES = {i: Source(i, hit.passage, hit.score) for i, hit in enumerate(HITS, 1)}


def test_a_supported_sentence_is_matched_and_an_invented_one_is_not(citer):
    text = (
        "By default vLLM listens on port 8001. "
        "vLLM listens on port 9999 by default. "
        "The moon is made of green cheese and orbits Paris."
    )
    citations, unsupported = citer.cite(text, SOURCES)
    assert [(c.number, c.by) for c in citations] == [(1, CitedBy.MATCH)]
    assert text[citations[0].start : citations[0].end] == "By default vLLM listens on port 8001."
    assert [text[a:b] for a, b in unsupported] == text.split(". ", 1)[1].replace(
        ". T", ".|T"
    ).split("|")


def test_a_citation_that_points_nowhere_is_kept_as_that(citer):
    citations, _ = citer.cite("It is so [7]. And so [2, 3].", SOURCES)
    assert [(c.number, c.passage is None) for c in citations] == [(7, True), (2, False), (3, False)]


def test_numbers_in_code_are_no_citations():
    assert marks("Use `x[1]` and\n```\ny[2]\n```\nas said [3].") == [(36, 39, [3])]


def test_sentences_end_where_people_end_them():
    text = 'It needs e.g. 16 GB. See "memory … is less" in v0.6.0! [2] Then:\n- one\n- two\n\nEnd'
    found = [text[s.start : s.end] for s in sentences(text)]
    assert found == [
        "It needs e.g. 16 GB.",
        'See "memory … is less" in v0.6.0! [2]',
        "Then:",
        "- one",
        "- two",
        "End",
    ]


async def test_a_conversation_comes_back_as_it_was(services, home):
    pair, _ = services(sse("Port 8001 [1]."))
    conversation = Conversation()
    await asked(conversation, pair)
    save(home, conversation)
    assert load(home, conversation.id) == conversation
    begin(conversation, "Asked when the workbench was killed")
    save(home, conversation)
    assert load(home, conversation.id).turns[-1].state is State.STOPPED
    assert load(home, "A" * 22) is None
    assert load(home, "../../etc/passwd") is None
    (home / "conversations" / f"{conversation.id}.json").write_text("{rubbish")
    with pytest.raises(GearshiftError, match="cannot be read"):
        load(home, conversation.id)


def test_a_job_can_be_stopped_before_the_first_token_and_is_saved(services, home):
    async def hang(exchange):
        await exchange.head()
        await exchange.until_closed()

    pair, (server, _) = services(hang)
    conversation = Conversation()
    job = Job(Ask("Which?", pair), conversation, home)
    assert server.arrived.wait(5)
    while not [r for r in server.requests if "chat" in r.path]:
        server.arrived.clear()
        assert server.arrived.wait(5)
    job.stop()
    assert server.closed.wait(0.5)
    assert job._ended.wait(5)
    assert load(home, conversation.id).turns[-1].state is State.STOPPED


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_a_job_can_be_stopped_before_it_has_begun(services, home, monkeypatch, delay):
    def slow(home, conversation):
        time.sleep(0.3)
        save(home, conversation)

    monkeypatch.setattr(jobs, "save", slow)
    pair, servers = services(sse("Never asked."))
    conversation = Conversation()
    job = Job(Ask("Which?", pair), conversation, home)
    time.sleep(delay)
    job.stop()
    assert job._ended.wait(5)
    assert load(home, conversation.id).turns[-1].state is State.STOPPED
    assert not any(server.requests for server in servers)


def test_two_tabs_on_one_conversation_lose_nothing(services, home):
    async def hang(exchange):
        await exchange.head()
        await exchange.until_closed()

    pair, _ = services(hang)
    conversation = Conversation()
    save(home, conversation)
    other = opened(home, conversation.id)
    job = Job(Ask("First?", pair), conversation, home)
    with pytest.raises(GearshiftError, match="is being written"):
        Job(Ask("Second?", pair), other, home)
    job.stop()
    assert job._ended.wait(5)
    second = Job(Ask("Second?", pair[1:]), other, home)
    assert second._ended.wait(5)
    questions = [turn.question for turn in load(home, conversation.id).turns]
    assert questions == ["First?", "Second?"]


def test_an_unexpected_failure_ends_a_turn_and_says_so(services, home):
    def broken():
        raise KeyError("arrow")

    pair, _ = services(sse("Never asked."))
    job = Job(Ask("Which?", pair, broken), Conversation(), home)
    assert job._ended.wait(5)
    assert job.answer.state is State.FAILED
    assert "KeyError" in job.answer.error["message"]


async def test_an_embedder_that_fails_at_the_end_does_not_undo_the_answer(services):
    class Dead(Hashing):
        def _embed(self, texts):
            raise ServerFailed("it is gone", hint="start it")

    pair, _ = services(sse("Port 8001 [1]. It is a good port for tests."))
    answer = await asked(Conversation(), pair, documents=lambda: Found(embedder=Dead()))
    assert answer.state is State.DONE
    assert [(c.number, c.by) for c in answer.citations] == [(1, CitedBy.MODEL)]
    assert [item.what for item in answer.dropped] == ["citations"]
    assert "it is gone" in answer.dropped[0].name


def test_with_no_server_at_all_the_embedded_model_answers():
    services = chain("ollama", LLMServiceFactory.get_service)
    conversation = Conversation()
    answer = begin(conversation, "Say hello.")
    run(write_answer(Ask("Say hello.", services, max_tokens=8), conversation, answer))
    assert answer.state is State.DONE
    assert (answer.provider, answer.fallback_from) == ("embedded", "ollama")
    assert answer.text
