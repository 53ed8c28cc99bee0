"""The workbench as a person meets it."""

import re

import pytest
from playwright.sync_api import expect

from scripted_server import ndjson, ollama, sse, vllm

NOTES = b"# Harbour\n\nThe harbour master of Gullhaven is Ottoline Brandt. She has two cats.\n"
DONE = re.compile(r"first token \d")


def ask(page, question):
    box = page.get_by_placeholder("Ask the documents …")
    expect(box).to_be_enabled()
    box.fill(question)
    box.press("Enter")


def answers(page):
    """What stands under each answer: who wrote it, how fast, how it is supported."""
    return page.get_by_text(DONE)


def choose(page, label, option):
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).click()


def upload(page, name, data):
    if page.get_by_role("heading", name="Documents", exact=True).count() == 0:
        page.get_by_role("link", name="Documents").click()
    page.locator("input[type=file]").set_input_files(
        [{"name": name, "mimeType": "text/plain", "buffer": data}]
    )


def test_a_newcomer_without_any_server_gets_a_cited_answer(workbench, visit):
    page = visit(workbench().url)
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    expect(page.get_by_text("135 million parameters")).to_be_visible()
    page.get_by_role("button", name="When should I use vLLM instead of Ollama?").click()
    expect(answers(page)).to_contain_text("Embedded model")
    expect(page.get_by_text("Ollama did not answer")).to_be_visible()
    expect(page.get_by_text("ollama pull mistral")).to_be_visible()
    citation = page.get_by_role("link", name=re.compile(r"^≈\d+$")).first
    target = citation.get_attribute("href")
    citation.click()
    passage = page.locator(target)
    expect(passage).to_be_in_viewport()
    expect(passage).to_contain_text("01-choosing-ollama-or-vllm.md")


def test_own_documents_are_taken_in_asked_looked_at_and_deleted(workbench, visit, serve):
    server = serve(vllm(sse("It is Ottoline Brandt [1]. ", "She was born in 1861.")))
    page = visit(workbench(LLM_PROVIDER="vllm", VLLM_BASE_URL=server.url).url)
    upload(page, "harbour.md", NOTES)
    expect(page.get_by_text("harbour.md indexed, passages: 1")).to_be_visible()
    upload(page, "broken.pdf", b"%PDF-1.4 rubbish")
    expect(page.get_by_text(re.compile("broken.pdf (failed|rejected)"))).to_be_visible()
    page.get_by_role("link", name="Chat").click()
    ask(page, "Who is the harbour master?")
    expect(answers(page)).to_contain_text("vLLM · served")
    expect(answers(page)).to_contain_text("1 cited by the model")
    expect(answers(page)).to_contain_text("1 without a source")
    expect(page.get_by_text("no source", exact=True)).to_have_count(1)
    expect(page.get_by_role("link", name="[1]")).to_have_attribute("href", "#source-1")
    page.get_by_role("link", name="Documents").click()
    choose(page, "Look at", "harbour.md")
    expect(page.get_by_text("She has two cats.")).to_be_visible()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("Nothing here yet")).to_be_visible()


def test_an_index_that_must_be_made_anew_stops_no_page_and_is(workbench, visit, serve):
    server = serve(vllm(sse("It is Ottoline Brandt [1].")))
    running = workbench(LLM_PROVIDER="vllm", VLLM_BASE_URL=server.url)
    page = visit(running.url)
    upload(page, "harbour.md", NOTES)
    expect(page.get_by_text("harbour.md indexed, passages: 1")).to_be_visible()
    made_with = running.home / "index" / "default" / "collection.json"
    made_with.write_text(made_with.read_text().replace('"splitter": "', '"splitter": "older-'))
    page.get_by_role("link", name="Chat").click()
    ask(page, "Who is the harbour master?")
    expect(page.get_by_text("their vectors cannot be compared")).to_be_visible()
    page.get_by_role("link", name="Documents").click()
    expect(page.get_by_text("their vectors cannot be compared")).to_be_visible()
    page.get_by_role("button", name="Rebuild it").click()
    expect(page.get_by_text("their vectors cannot be compared")).to_have_count(0)
    page.get_by_role("link", name="Chat").click()
    page.get_by_role("button", name="Ask again").click()
    expect(answers(page)).to_contain_text("1 cited by the model")


def test_two_tabs_on_one_conversation_lose_no_turn(workbench, visit, serve):
    running = workbench(LLM_PROVIDER="vllm", VLLM_BASE_URL=serve(vllm(sse("Yes."))).url)
    one = visit(running.url)
    ask(one, "The first?")
    expect(answers(one)).to_be_visible()
    two = visit(one.url)
    ask(two, "The second?")
    expect(answers(two)).to_have_count(2)
    ask(one, "The third?")
    expect(answers(one)).to_have_count(3)
    expect(one.get_by_text("The second?")).to_be_visible()


def test_a_conversation_goes_on_over_another_provider(workbench, visit, serve):
    first = serve(vllm(sse("vLLM says hello.")))
    second = serve(ollama(ndjson("Ollama says hello.")))
    running = workbench(VLLM_BASE_URL=first.url, OLLAMA_BASE_URL=second.url)
    page = visit(running.url)
    ask(page, "Who are you?")
    expect(answers(page)).to_contain_text("Ollama · mistral:latest")
    page.get_by_role("radiogroup").get_by_text("vLLM").click()
    ask(page, "And you?")
    expect(answers(page).nth(1)).to_contain_text("vLLM · served")
    sent = [r.json["messages"] for r in first.requests if "chat" in r.path][-1]
    assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
    first.stop()
    ask(page, "And now?")
    expect(answers(page).nth(2)).to_contain_text("Ollama · mistral:latest")
    expect(page.get_by_text("vLLM did not answer")).to_be_visible()
    page.get_by_role("button", name="Make it the default").click()
    expect(page.get_by_text("written into .env")).to_be_visible()
    assert "LLM_PROVIDER=vllm" in (running.folder / ".env").read_text("utf-8")


def test_a_provider_killed_in_mid_answer_leaves_a_part_that_is_marked(workbench, visit, serve):
    async def die(exchange):
        await exchange.head()
        await exchange.send(sse("The first half and", finish=None, usage=None, done=False))
        exchange.reset()

    first, second = serve(vllm(die)), serve(ollama(ndjson("A whole answer.")))
    settings = {"VLLM_BASE_URL": first.url, "OLLAMA_BASE_URL": second.url, "LLM_PROVIDER": "vllm"}
    page = visit(workbench(**settings).url)
    ask(page, "Tell me.")
    expect(page.get_by_text("This answer broke off.")).to_be_visible()
    expect(page.get_by_text("The first half and")).to_be_visible()
    page.get_by_role("button", name="Ask Ollama instead").click()
    expect(page.get_by_text("A whole answer.")).to_be_visible()
    expect(answers(page).nth(1)).to_contain_text("Ollama")


def test_a_hanging_provider_blocks_nothing(workbench, visit, serve):
    async def hang(exchange):
        await exchange.until_closed()

    hanging, good = serve(hang), serve(ollama(ndjson("Here I am.")))
    settings = {"VLLM_BASE_URL": hanging.url, "OLLAMA_BASE_URL": good.url}
    page = visit(workbench(**settings, GEARSHIFT_FIRST_TOKEN_TIMEOUT="2").url)
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    page.get_by_role("radiogroup").get_by_text("vLLM").click()
    ask(page, "Are you there?")
    expect(page.get_by_text("Here I am.")).to_be_visible()
    expect(page.get_by_text("vLLM did not answer")).to_be_visible()
    ask(page, "And again?")
    expect(answers(page).nth(1)).to_contain_text("Ollama")
    tried = [r for r in hanging.requests if "chat" in r.path]
    assert len(tried) == 1, "the breaker shall keep it from costing its budget again"


def test_stop_closes_the_connection_at_once(workbench, visit, serve):
    async def endless(exchange):
        await exchange.head()
        await exchange.send(sse("Once upon a time", finish=None, usage=None, done=False))
        await exchange.until_closed()

    server = serve(vllm(endless))
    page = visit(workbench(LLM_PROVIDER="vllm", VLLM_BASE_URL=server.url).url)
    ask(page, "A story, please.")
    expect(page.get_by_text("Once upon a time")).to_be_visible()
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    stop.click()
    assert server.closed.wait(2)
    expect(page.get_by_text("Stopped: this answer is not complete.")).to_be_visible()


def test_people_are_apart_and_an_address_survives_a_restart(workbench, visit, serve):
    server = serve(vllm(sse("The answer to the secret question.")))
    running = workbench(LLM_PROVIDER="vllm", VLLM_BASE_URL=server.url)
    alice, bob = visit(running.url), visit(running.url)
    ask(alice, "My secret question?")
    expect(answers(alice)).to_be_visible()
    bob.reload()
    expect(bob.get_by_role("heading", name="Ask your documents")).to_be_visible()
    expect(bob.get_by_text("secret")).to_have_count(0)
    address = alice.url
    assert re.search(r"\?c=[\w-]{22}", address)
    running.stop()
    running.start()
    again = visit(address)
    expect(again.get_by_text("My secret question?")).to_be_visible()
    expect(again.get_by_text("The answer to the secret question.")).to_be_visible()
    other = visit(re.sub(r"c=[\w-]{22}", "c=" + "A" * 22, address))
    expect(other.get_by_text("There is no conversation at this address")).to_be_visible()


HOSTILE = (
    "![x](http://127.0.0.1:9/leak.png) <script>document.title='owned'</script> "
    "[click](javascript:alert(1)) <img src=http://127.0.0.1:9/b.png onerror=alert(1)>"
    "\n\n- a\n  ```\n![x](http://127.0.0.1:9/c.png)\n\n``` `` ` ``\n![x](http://127.0.0.1:9/d.png)"
)


def test_what_a_model_writes_stays_text(workbench, visit, serve):
    server = serve(vllm(sse(HOSTILE)))
    running = workbench(LLM_PROVIDER="vllm", VLLM_BASE_URL=server.url)
    page = visit(running.url)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "Show me.")
    expect(answers(page)).to_be_visible()
    expect(page.get_by_text("leak.png")).to_be_visible()
    page.wait_for_timeout(500)
    assert not [url for url in asked if str(running.port) not in url]
    assert page.title() != "owned"
    assert page.locator("a[href^=javascript]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_wrong_setting_is_explained(workbench, visit, scheme):
    running = workbench(VLLM_GPU_COUNT="9")
    page = visit(running.url, color_scheme=scheme)
    expect(page.get_by_text("Gearshift cannot start")).to_be_visible()
    expect(page.get_by_text("VLLM_GPU_COUNT")).to_be_visible()


def test_a_model_is_pulled_from_the_sidebar(workbench, visit, serve):
    server = serve(ollama())
    page = visit(workbench(OLLAMA_BASE_URL=server.url).url)
    page.get_by_role("button", name="Get a model").click()
    name = page.get_by_label("Name in Ollama's library")
    name.fill("qwen3:0.6b")
    name.press("Enter")
    page.get_by_role("button", name="Pull it").click()
    expect(page.get_by_text("qwen3:0.6b has arrived.")).to_be_visible()
    (pull,) = [r for r in server.requests if r.path == "/api/pull"]
    assert pull.json["model"] == "qwen3:0.6b"
