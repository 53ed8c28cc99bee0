"""The proof: a model on both servers, asked the same, and a report of how like they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.bench import Series, Wish, find_target, measure
from gearshift.bench.records import run_record
from gearshift.bench.series import QUESTIONS
from gearshift.migrate.inventory import Item
from gearshift.migrate.pairs import Pair, Sides, compare
from gearshift.migrate.plan import to_serve
from gearshift.migrate.questions import make_questions, read_questions
from gearshift.migrate.serving import ensure_served
from gearshift.migrate.verdict import as_json, keep, report_file
from gearshift.providers import run
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.rag import library
from gearshift.rag.embedders import MiniLM
from gearshift.settings import Settings


@dataclass(frozen=True)
class Exam:
    """What both servers are asked.

    Attributes:
        file: Questions; `None` for the sample ones.
        most: So many of them.
        collection: Where passages are looked for; `None` for the person's own documents or the
            sample ones.
        retrieval: Whether passages are looked for at all.
        max_tokens: The longest answer.
        vllm_model: What vLLM calls the model, if not as Ollama does.
        people: Speed is measured with one person and with so many; 0 for not at all.
    """

    file: Path | None = None
    most: int = 20
    collection: str | None = None
    retrieval: bool = True
    max_tokens: int = 128
    vllm_model: str | None = None
    people: int = 4


def check_parity(
    item: Item,
    exam: Exam,
    settings: Settings,
    on_stage: Callable[[str], None],
    on_pair: Callable[[Pair], None],
) -> dict[str, Any]:
    """Examines a model, and keeps the report when it is whole, in place of the one before.

    Raises:
        EngineError, ProviderError, IndexFault: as `examine`.
    """
    report = examine(item, exam, settings, on_stage, on_pair)
    keep(report, report_file(item.name, settings))
    return report


def examine(
    item: Item,
    exam: Exam,
    settings: Settings,
    on_stage: Callable[[str], None],
    on_pair: Callable[[Pair], None],
) -> dict[str, Any]:
    """Compares a model on both servers; starts vLLM if nothing is there, and leaves it running.

    Raises:
        EngineError: the questions cannot be read, or the model cannot be served.
        ProviderError: a server cannot be asked.
        IndexFault: there is no such collection.
    """
    asked = read_questions(exam.file, exam.most)
    documents = None
    if exam.retrieval:
        on_stage("looking for passages")
        documents = library.to_ask(exam.collection)
    questions = make_questions(asked, documents)
    name = exam.vllm_model or item.name
    wanted = to_serve(item, settings)
    ensure_served(name, wanted, settings, lambda record: on_stage(f"vLLM: {record.stage}"))
    on_stage("asking both")
    sides = Sides(
        OllamaService(settings),
        item.name,
        VLLMService(settings),
        name,
        tuple(value for key, value in item.modelfile.parameters if key == "stop" and value),
        bool(item.modelfile.messages),
    )
    embedder = library.embedder(MiniLM.name)
    pairs = run(compare(questions, sides, embedder, exam.max_tokens, on_pair))
    speed: list[dict[str, Any]] = []
    if exam.people:
        on_stage("measuring speed")
        speed = _speed(item.name, name, exam, settings)
    return as_json(item.name, pairs, speed)


def _speed(
    ollama_name: str, vllm_name: str, exam: Exam, settings: Settings
) -> list[dict[str, Any]]:
    """Both with one person and with several, as the benchmark measures it."""
    targets = [
        find_target(OllamaService(settings), ollama_name),
        find_target(VLLMService(settings), vllm_name),
    ]
    wish = Wish(
        users=tuple(sorted({1, exam.people})),
        requests=2 * exam.people,
        output_tokens=exam.max_tokens,
        prompts=str(exam.file) if exam.file else QUESTIONS,
        warmup=1,
    )
    return [run_record(found) for found in measure(Series(wish, targets)).measured]
