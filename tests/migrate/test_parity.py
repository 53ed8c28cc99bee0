"""Both servers asked the same: what is the same, what nearly is, and what is said of the rest."""

import json

import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.errors import GearshiftError
from gearshift.migrate.pairs import Alike, Sides, compare
from gearshift.migrate.questions import make_questions, read_questions
from gearshift.migrate.verdict import judge
from gearshift.providers import run
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.rag import library
from gearshift.rag.embedders import MiniLM
from gearshift.schemas import Message

MODEL = "small:1b"


def checkpoint(home):
    """What a conversion leaves, as far as nothing is served from it."""
    folder = home / "checkpoints" / "small-1b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    report = {"source": {"file": "/blobs/sha256-1"}, "checks": []}
    (folder / "gearshift.json").write_text(json.dumps(report), "utf-8")


@pytest.fixture
def pair(sides, embedding_home):
    """The pair that both servers make of one question."""

    def ask(question="What is the capital of France?"):
        asked = make_questions([question], None)
        both = Sides(
            OllamaService(sides.settings), MODEL, VLLMService(sides.settings), MODEL, ("</s>",)
        )
        seen = []
        embedder = library.embedder(MiniLM.name)
        (found,) = run(compare(asked, both, embedder, 16, seen.append))
        assert seen == [found]
        return found

    return ask


def test_a_server_that_breaks_off_costs_only_the_questions_that_come_after(sides, embedding_home):
    asked = make_questions(["one", "two"], None)
    both = Sides(OllamaService(sides.settings), MODEL, VLLMService(sides.settings), MODEL)

    def break_it(pair):
        sides.refuse = True

    first, second = run(compare(asked, both, library.embedder(MiniLM.name), 16, break_it))
    assert (first.alike, second.alike) == (Alike.SAME, Alike.UNKNOWN)
    assert "1 have no whole answer" in judge([first, second]).reasons[1]


def test_the_same_is_the_same(pair):
    found = pair()
    assert (found.same_prompt, found.compared, found.difference) == (True, "tokens", None)
    assert (found.alike, found.meaning) == (Alike.SAME, pytest.approx(1.0, abs=1e-3))
    assert judge([found]).verdict is Alike.SAME


def test_where_prompts_part_is_shown(pair, sides):
    sides.vllm_tokens = [1, 7, 8, 3]
    found = pair()
    assert found.same_prompt is False
    assert "3 tokens in Ollama, 4 in vLLM; the first 1 are the same" in found.difference
    assert "after 't1', Ollama has 't2t3' and vLLM 't7t8t3'" in found.difference
    verdict = judge([found])
    assert verdict.verdict is Alike.DIFFERENT
    assert any("the first that is not" in reason for reason in verdict.reasons)


def test_a_longer_chat_is_compared_by_its_number_of_tokens(pair, sides):
    chat = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    found = pair(chat)
    assert (found.same_prompt, found.compared) == (None, "count")  # which is no proof
    assert "as many tokens in both" in judge([found]).reasons[0]
    sides.vllm_tokens = [1, 2, 3, 4]
    assert pair(chat).difference == "3 tokens in Ollama, 4 in vLLM"


@pytest.mark.parametrize(("gap", "alike"), [(0.3, Alike.NEAR), (3.0, Alike.DIFFERENT)])
def test_another_answer_is_judged_by_how_likely_it_was(pair, sides, gap, alike):
    sides.ollama_answer, sides.gap = "Paris is what it is called.", gap
    found = pair()
    assert (found.alike, found.widest_gap) == (alike, pytest.approx(gap))
    assert 0.0 < found.meaning < 1.0
    verdict = judge([found])
    assert verdict.verdict is alike
    words = "nearly as likely" if alike is Alike.NEAR else "differ by more than that"
    assert any(words in reason for reason in verdict.reasons)


def test_a_server_that_fails_leaves_it_unknown_and_says_why(pair, sides):
    sides.status = 500
    found = pair()
    assert found.alike is Alike.UNKNOWN
    assert "it broke" in found.answers[1].error
    assert judge([found]).verdict is Alike.UNKNOWN


def test_citations_refusals_and_ends_are_counted(pair, sides):
    sides.ollama_answer = "I'm sorry, but the sources do not answer the question."
    sides.gap = 5.0
    reasons = judge([pair()]).reasons
    assert "refusals differ in 1 of 1 answers" in reasons


def test_questions_come_from_a_file_texts_to_be_looked_up_and_chats_as_they_are(tmp_path):
    file = tmp_path / "questions.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a chat"}]
    rows = ["a text", {"question": "an object"}, {"messages": chat}, "one too many"]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert read_questions(file, 3) == [
        "a text", "an object", (Message("system", "Be brief."), Message("user", "a chat")),
    ]  # fmt: skip
    assert len(read_questions(None, 20)) == 20
    with pytest.raises(GearshiftError, match="cannot read"):
        read_questions(tmp_path / "none", 3)


def test_the_command_keeps_its_report(sides, embedding_home, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text("What is the capital of France?\nAnd of Italy?\n", "utf-8")
    command = ["migrate", "parity", MODEL, "--prompts", str(file), "--no-retrieval"]
    command += ["--people", "2"]
    checkpoint(embedding_home)
    found = CliRunner().invoke(app, [*command, "--json"])
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    report = told["report"]
    assert (report["verdict"], report["prompts_same"], len(report["pairs"])) == ("same", 2, 2)
    assert report["pairs"][0]["answers"]["vllm"]["text"] == "Paris it is."
    runs = [(run["provider"], run["concurrency"], run["failed"]) for run in report["speed"]]
    assert runs == [("ollama", 1, 0), ("vllm", 1, 0), ("ollama", 2, 0), ("vllm", 2, 0)]
    assert any(reason.startswith("with 2 people at once: ollama") for reason in report["reasons"])
    with open(told["path"], encoding="utf-8") as kept:
        assert json.load(kept) == report
    words = CliRunner().invoke(app, command).stdout
    assert "verdict: same" in words
    assert "= And of Italy?" in words


def test_a_server_that_does_not_know_the_name_is_not_taken(sides, embedding_home):
    sides.names = ("other",)
    checkpoint(embedding_home)
    found = CliRunner().invoke(
        app, ["migrate", "parity", MODEL, "--no-retrieval", "--people", "0", "--json"]
    )
    assert found.exit_code == 1
    error = json.loads(found.stdout)["error"]
    assert "serves other, and does not answer to small:1b" in error["message"]
    assert "gearshift serve" in error["hint"]
    assert f"--served-name={MODEL}" in error["hint"]
