"""The five steps of a migration, as the page shows them."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import streamlit as st

from gearshift import gpu as hardware
from gearshift.errors import GearshiftError
from gearshift.migrate.convert import Check, convert, converted
from gearshift.migrate.cutover import Counts, Outcome, cut_over
from gearshift.migrate.inventory import Item, gguf_of
from gearshift.migrate.mapping import fates
from gearshift.migrate.pairs import Pair
from gearshift.migrate.parity import Exam, check_parity
from gearshift.migrate.plan import Move, document, plan_move, translated, write_template
from gearshift.migrate.rollback import last_cut_over, roll_back
from gearshift.migrate.serving import checkpoint_folder, serving
from gearshift.migrate.verdict import kept
from gearshift.providers import LLMServiceFactory
from gearshift.settings import Settings, load_settings
from parts.job import Job, jobs, show_job
from parts.markdown import plain
from parts.refreshed import refreshed
from parts.state import show_problem

_MARKS = {
    True: ":green[:material/check:]",
    False: ":red[:material/close:]",
    None: ":orange[:material/help:]",
}
_ALIKE = {
    "same": ":green[:material/check: the same]",
    "near": ":green[:material/check: nearly the same]",
    "different": ":red[:material/close: different]",
    "unknown": ":orange[:material/help: not known]",
}


def show_inventory(item: Item, settings: Settings) -> None:
    """What the model is made of."""
    if item.problem or item.modelfile.error:
        st.error(plain(item.problem or f"Ollama rejects it: {item.modelfile.error}"))
    count = item.parameter_count
    facts = {
        "Architecture": item.architecture,
        "Parameters": f"{count / 1e9:.2f} billion" if count else None,
        "Quantization": item.quantization,
        "Context": f"{item.context:,} tokens" if item.context else None,
        "Size": f"{item.size_bytes / 1e9:.2f} GB" if item.size_bytes else None,
        "In memory now": {True: "yes", False: "no", None: None}[item.loaded],
    }
    columns = st.columns(3)
    for number, (name, value) in enumerate(facts.items()):
        columns[number % 3].metric(name, value or "not told")
    file = item.modelfile
    if file.parameters:
        rows = [{"parameter": plain(n), "value": plain(v)} for n, v in file.parameters]
        st.table(rows)
    for name in ("system", "template"):
        if (text := file.last(name)) is not None:
            st.caption(name.upper())
            st.code(text, language=None, wrap_lines=True)
    if file.messages:
        st.caption("MESSAGE")
        lines = [f"{role}: {text}" for role, text in file.messages]
        st.code("\n".join(lines), language=None, wrap_lines=True)


def show_plan(item: Item, settings: Settings) -> None:
    """What it becomes: repository, weights, the fate of every line, the command."""
    try:
        move = plan_move(item, settings, hardware.look().gpus)
        write_template(move)
    except GearshiftError as problem:
        show_problem(problem)
        return
    repository, weights = move.repository, move.weights
    st.markdown(f"**Repository** {plain(repository.hub or 'not known')}")
    if repository.doubt:
        st.warning(plain(f"Doubt: {repository.doubt}."))
    st.markdown(f"**Weights** {plain(weights.words)}")
    st.markdown(f"**Chat template** {plain(move.template_note)}")
    _show_fates(move)
    if move.command:
        st.caption("To serve it from the Hub")
        st.code(shlex.join(move.command), language="bash", wrap_lines=True)
    st.download_button(
        "The plan as a document", document(move), "migration.md", icon=":material/download:"
    )


def _show_fates(move: Move) -> None:
    rows = []
    for fate in move.fates:
        gives = "" if fate.gives is None else f" = {fate.gives}"
        cells = {
            "line": fate.parameter,
            "value": " ".join(fate.value.split())[:80],
            "becomes": f"{fate.becomes or 'nothing'}{gives}",
            "note": fate.note,
        }
        rows.append({name: plain(text) for name, text in cells.items()})
    if rows:
        st.table(rows)


def show_weights(item: Item, settings: Settings) -> None:
    """The very weights that Ollama has, as a checkpoint."""
    st.write(
        "Either take the repository of the plan from the Hub, or convert the very weights that "
        "Ollama has into a checkpoint: unpacked to 16 bits, and compared with Ollama."
    )
    _weights(item, settings)


@refreshed(every=1)
def _weights(item: Item, settings: Settings) -> None:
    key = f"convert {item.name}"
    folder = checkpoint_folder(item.name, settings)
    if show_job(key):
        return
    done = converted(folder)
    if done is None:
        st.button(
            "Convert", type="primary", icon=":material/build:",
            on_click=lambda: jobs().update({key: Job(partial(_convert, item, folder))}),
        )  # fmt: skip
        return
    st.success(plain(f"It is in {done.folder}"))
    _show_checks(done.checks)
    found = serving(str(done.folder), item, fates(item.modelfile, item.context))
    st.caption("The next step starts it. By hand:")
    st.code(shlex.join(found.command(settings)), language="bash", wrap_lines=True)


def _convert(item: Item, folder: Path, job: Job) -> Any:
    template, _ = translated(item)
    source = gguf_of(item)
    return convert(source, folder, load_settings(), job.tell, item.name, template)


def _show_checks(checks: list[Check]) -> None:
    for check in checks:
        st.markdown(f"{_MARKS[check.ok]} **{plain(check.name)}** {plain(check.message)}")


def show_parity(item: Item, settings: Settings) -> None:
    """Both servers, asked the same."""
    st.write(
        "Both servers are asked the same at temperature 0: first the prompts are compared, token "
        "by token, then the answers. vLLM is started if nothing listens at its address."
    )
    own = st.text_area(
        "Your questions, one a line",
        placeholder="empty: questions about the sample handbook",
        key="parity-questions",
    )
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    most = left.number_input("Questions at most", 1, 500, 20, key="parity-most")
    people = middle.number_input(
        "Speed with so many people", 0, 100, 4, help="0: not measured", key="parity-people"
    )
    retrieval = right.toggle("With passages of the documents", True, key="parity-retrieval")
    _parity(item, settings, own, int(most), retrieval, int(people))


@refreshed(every=1)
def _parity(
    item: Item, settings: Settings, own: str, most: int, retrieval: bool, people: int
) -> None:
    key = f"parity {item.name}"
    job = jobs().get(key)
    if show_job(key):
        assert job is not None
        for pair in job.items:
            st.markdown(f"{_ALIKE[pair.alike]} · {plain(pair.question.text)}")
        return
    work = partial(_compare, item, own, most, retrieval, people)
    st.button(
        "Compare", type="primary", icon=":material/compare_arrows:",
        on_click=lambda: jobs().update({key: Job(work)}),
    )  # fmt: skip
    if (report := kept(item.name, settings)) is not None:
        _show_report(report)


def _compare(item: Item, own: str, most: int, retrieval: bool, people: int, job: Job) -> Any:
    def on_pair(pair: Pair) -> None:
        job.items.append(pair)
        job.tell(f"{len(job.items)} compared", len(job.items) / most)

    with NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(own)
        file.flush()
        questions = Path(file.name) if own.strip() else None
        exam = Exam(questions, most, None, retrieval, people=people)
        return check_parity(item, exam, load_settings(), job.tell, on_pair)


def _show_report(report: dict[str, Any]) -> None:
    st.markdown(f"### Verdict: {_ALIKE[report['verdict']]}")
    st.caption(plain(f"Compared at {report['made']}"))
    for reason in report["reasons"]:
        st.markdown(f"- {plain(reason)}")
    for row in report["pairs"]:
        mark = {"same": "=", "near": "≈", "different": "≠"}.get(row["alike"], "?")
        with st.expander(plain(f"{mark} {row['question'][:120]}")):
            if row["difference"]:
                st.error(plain(f"The prompts differ: {row['difference']}"))
            for side, name in zip(st.columns(2), ("ollama", "vllm"), strict=True):
                answer = row["answers"][name]
                side.markdown(f"**{'Ollama' if name == 'ollama' else 'vLLM'}**")
                side.caption(
                    f"{row['prompt_tokens'][name]} prompt tokens, {answer['tokens']} written, "
                    f"ended by {answer['finish_reason']}"
                )
                side.code(answer["error"] or answer["text"], language=None, wrap_lines=True)


def show_cutover(item: Item, settings: Settings) -> None:
    """The switch, and the way back."""
    st.write(
        "vLLM becomes the default, with Ollama behind it. It is watched for a while; when more "
        "requests fail than before, the settings go back by themselves."
    )
    seconds = st.number_input("Seconds to watch", 1, 86_400, 120, key="cutover-seconds")
    _cutover(item, settings, float(seconds))


@refreshed(every=1)
def _cutover(item: Item, settings: Settings, seconds: float) -> None:
    key = "cutover"
    running = show_job(key, "Stop watching", "It is not watched any more.")
    if st.session_state.get("cutover-seen", running) is not running:
        st.session_state["cutover-seen"] = running
        st.rerun()  # the marks of the steps are outside of this part
    st.session_state["cutover-seen"] = running
    outcome: Outcome | None = jobs()[key].result if key in jobs() else None
    if outcome is not None and outcome.reason:
        st.error(plain(f"It went back by itself: {outcome.reason}."))
    last = last_cut_over(settings)
    if last is not None and not last["taken_back"]:
        if not running:
            before = LLMServiceFactory.get_service(last["previous"]).label
            st.success(plain(f"Chats go to vLLM now. Before, they went to {before}."))
            st.button("Go back", icon=":material/undo:", on_click=_go_back)
    elif not running:
        st.button(
            "Cut over", type="primary", icon=":material/swap_horiz:",
            on_click=lambda: jobs().update({key: Job(partial(_switch, item, seconds))}),
        )  # fmt: skip


def _switch(item: Item, seconds: float, job: Job) -> Outcome:
    def on_counts(passed: float, counts: Counts) -> None:
        failed = counts.probes_failed if counts.failed is None else counts.failed
        all_of = counts.probes if counts.requests is None else counts.requests
        job.tell(f"watching: {failed} of {all_of} requests failed", passed / seconds)

    interval = min(5.0, max(1.0, seconds / 10))
    return cut_over(item.name, load_settings(), seconds, interval, 0.05, on_counts)


def _go_back() -> None:
    try:
        roll_back(load_settings())
        jobs().pop("cutover", None)
        st.session_state["cutover-seen"] = True  # so that the whole page is drawn anew
    except GearshiftError as problem:
        show_problem(problem)
