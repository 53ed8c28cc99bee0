"""What every provider promises, checked on each: real Ollama, the embedded model, vLLM's protocol.

Without `OLLAMA_TEST_URL` Ollama's protocol is played by a scripted server.
"""

import asyncio
import json
import os
import threading

import pytest

from gearshift.errors import ContextExceeded, ModelNotFound, ProviderError
from gearshift.providers import LLMServiceFactory, run
from gearshift.providers.embedded import EmbeddedService
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.schemas import FinishReason, Message
from gearshift.settings import PROVIDERS, Settings
from scripted_server import ndjson, ollama, sse, vllm


async def _whole_or_cut(exchange):
    """Answers as a server that heeds `max_tokens`, and refuses prompts that are too long."""
    asked = exchange.json
    chat_of_ollama = "options" in asked
    limit = asked["options"].get("num_predict") if chat_of_ollama else asked.get("max_tokens")
    if len(exchange.body) > 100_000:
        error = "the prompt is longer than the context length currently available to the model"
        await exchange.reply({"error": error}, 400)
        return
    words = [f"word{i} " for i in range(min(limit or 20, 20))]
    reason = "length" if limit and limit <= 20 else "stop"
    await exchange.head()
    whole = ndjson(*words, reason=reason) if chat_of_ollama else sse(*words, finish=reason)
    await exchange.send(whole)


@pytest.fixture(params=sorted(PROVIDERS))
def service(request, serve, home):
    """Each provider in turn, ready to answer."""
    real = os.environ.get("OLLAMA_TEST_URL") if request.param == "ollama" else None
    if request.param == "embedded":
        made = EmbeddedService(Settings(_env_file=None))
    elif request.param == "ollama":
        url = real or serve(ollama(_whole_or_cut)).url
        made = OllamaService(Settings(ollama_base_url=url, _env_file=None))
    else:
        made = VLLMService(Settings(vllm_base_url=serve(vllm(_whole_or_cut)).url, _env_file=None))
    yield made
    made.close()


async def test_it_lists_models_and_says_that_it_is_ready(service):
    status = await service.check_connection()
    assert status.ready, status.detail
    models = await service.list_models()
    assert models
    assert all(model.name for model in models)


async def test_a_stream_ends_with_one_proof(service):
    chunks = [
        c async for c in service.generate_stream(prompt="Count.", max_tokens=5, temperature=0)
    ]
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].usage.completion_tokens
    assert "".join(map(str, chunks)) == "".join(chunk.text for chunk in chunks) != ""


async def test_messages_are_taken_where_a_prompt_is(service):
    for messages in ([Message("user", "Hi.")], [{"role": "user", "content": "Hi."}]):
        answer = await service.generate(messages=messages, max_tokens=3, temperature=0)
        assert str(answer)
        assert (answer.provider, bool(answer.model)) == (service.name, True)
    for wrong in ({}, {"prompt": "Hi.", "messages": [Message("user", "Hi.")]}):
        with pytest.raises(TypeError):
            service.generate_stream(**wrong)


async def test_a_prompt_that_is_too_long_is_said_to_be(service):
    with pytest.raises(ContextExceeded):
        await service.generate("word " * 60_000, max_tokens=4, context_length=512)


async def test_leaving_a_stream_leaves_nothing_behind(service):
    stream = service.generate_stream("Tell me a long story.", max_tokens=20, temperature=0)
    async for _ in stream:
        break
    await stream.aclose()
    assert str(await service.generate("Hi.", max_tokens=4, temperature=0))


def test_threads_and_loops_use_one_service_at_once(service):
    answers = []

    def ask():
        answers.append(asyncio.run(service.generate("Hi.", max_tokens=4, temperature=0)).text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    answers.append(run(service.generate("Hi.", max_tokens=4, temperature=0)).text)
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answers)


async def test_a_real_ollama_names_its_models_when_one_is_missing(real_ollama):
    service = OllamaService(Settings(ollama_base_url=real_ollama, _env_file=None))
    with pytest.raises(ModelNotFound) as caught:
        await service.generate("Hi.", "there-is-none")
    assert "smollm2" in caught.value.hint


async def test_the_embedded_model_answers_to_its_own_name_alone(home):
    service = EmbeddedService(Settings(_env_file=None))
    with pytest.raises(ModelNotFound) as caught:
        await service.generate("Hi.", "mistral")
    assert "smollm2:135m" in caught.value.hint
    service.close()


async def test_a_pull_ends_with_proof_or_an_error(real_ollama, serve, make_settings):
    service = OllamaService(Settings(ollama_base_url=real_ollama, _env_file=None))
    with pytest.raises(ProviderError):
        async for _ in service.pull("no-such-model-anywhere:at-all"):
            pass

    async def registry(exchange):
        await exchange.head(kind="application/x-ndjson")
        rows = [{"status": "pulling", "total": 10, "completed": 5}, {"status": "success"}]
        await exchange.send(b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    pulled = OllamaService(make_settings(ollama_base_url=serve(registry).url))
    steps = [progress async for progress in pulled.pull("mistral")]
    assert [(s.completed, s.total) for s in steps] == [(5, 10), (None, None)]


def test_the_factory_hands_out_one_service_of_each_kind(monkeypatch):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(LLMServiceFactory.get_service("vllm")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert LLMServiceFactory.get_service().name == "ollama"
    assert LLMServiceFactory.switch("vllm") is LLMServiceFactory.get_service() is found[0]
    monkeypatch.setenv("LLM_PROVIDER", "embedded")
    LLMServiceFactory.reset()
    assert LLMServiceFactory.get_service().name == "embedded"
