"""Chat: ask the documents, see the answer come, its sources beside it, and who wrote it."""

from __future__ import annotations

from functools import partial

import streamlit as st

from gearshift.errors import GearshiftError
from gearshift.providers import BaseLLMService, LLMServiceFactory, breaker, chain, submit
from gearshift.rag import library
from gearshift.rag.chat import Ask, known_sources
from gearshift.rag.conversations import Conversation
from gearshift.rag.jobs import Job, last_job
from gearshift.schemas import Answer, State
from gearshift.settings import load_settings
from parts import state
from parts.answers import show, show_sources
from parts.gearbox import gearbox
from parts.monitor import strip
from parts.refreshed import refreshed

EXAMPLES = (
    "When should I use vLLM instead of Ollama?",
    "How much GPU memory does a 7B model need?",
    "How do I go back to Ollama?",
)
NO_DOCUMENTS = "(no documents)"
# The passages stay in view, however long the conversation grows.
_SOURCES_STAY = (
    "<style>@media (min-width: 641px) { [data-testid=stColumn]:has(.st-key-sources) "
    "{position: sticky; top: 4rem; align-self: start} }</style>"
)


def main() -> None:
    conversation = state.conversation()
    job = last_job(conversation)
    with st.sidebar:
        if st.button("New conversation", icon=":material/add_comment:", width="stretch"):
            state.new_conversation()
            st.rerun()
        gearbox()
        collection = _choose_collection()
        strip()
    asked = st.chat_input("Ask the documents …", disabled=job is not None and job.running)
    if not conversation.turns:
        asked = asked or _empty_state(collection)
    if asked and asked.strip():
        _ask(conversation, asked, collection)
        st.rerun()
    problem = st.session_state.pop("problem", None) or (job.problem if job else None)
    if problem is not None:
        state.show_problem(problem)
    if conversation.turns:
        answers, sources = st.columns([3, 2], gap="large")
        with answers:
            _show_turns(conversation, collection)
        st.html(_SOURCES_STAY)
        with sources, st.container(height=640, border=False, key="sources"):
            show_sources(conversation)


def _choose_collection() -> str:
    """Which documents are asked; a person's own once there are any, else the handbook."""
    names = library.names()
    own = library.has_documents(library.DEFAULT)
    options = [
        name for name in names if name != library.SAMPLE and (name != library.DEFAULT or own)
    ]
    options = [*options, library.SAMPLE, NO_DOCUMENTS]
    titles = {library.DEFAULT: "My documents", library.SAMPLE: "Handbook (sample)"}
    return st.selectbox(
        "Documents", options, format_func=lambda name: titles.get(name, name), key="collection"
    )


def _empty_state(collection: str) -> str | None:
    st.title("Ask your documents")
    begin = {
        library.SAMPLE: "Begin with the handbook on running Ollama and vLLM, or add your own files "
        "on the **Documents** page.",
        NO_DOCUMENTS: "No documents are chosen now: the model answers from what it knows.",
    }.get(collection, "Ask about your own files; the handbook can be chosen in the sidebar.")
    st.write(f"Answers come with citations that open the exact passage. {begin}")
    # They are about the handbook: over other documents they would only find nothing.
    examples = EXAMPLES if collection == library.SAMPLE else ()
    for column, example in zip(st.columns(len(EXAMPLES)), examples, strict=False):
        if column.button(example, width="stretch"):
            return example
    _who_answers()
    return None


@refreshed(every=4)
def _who_answers() -> None:
    """Says so when it will be the embedded model; servers come and go while the page is open."""
    looks = state.watch().look([_service("ollama"), _service("vllm")])
    if state.provider() == "embedded" or not any(look.status.ready for look in looks):
        _about_the_embedded_model()


def _about_the_embedded_model() -> None:
    (ollama,) = state.watch().look([_service("ollama")])
    if ollama.status.ready:
        better = "Ollama runs here: choose it in the sidebar for better answers"
    else:
        chosen = state.provider() == "ollama"
        better = (
            "For a better one install [Ollama](https://ollama.com/download) and run "
            f"`ollama pull mistral`{'' if chosen else ', then choose Ollama in the sidebar'}"
        )
    st.info(
        "A built-in model answers while no model server is in use. With 135 million parameters it "
        "is too small to write well: it picks sentences from the passages, not always the right "
        f"ones. Good for trying things out. {better}; for many users at once start a vLLM server.",
        icon=":material/school:",
    )


def _service(name: str):
    return LLMServiceFactory.get_service(name)


def _ask(
    conversation: Conversation, question: str, collection: str, provider: str | None = None
) -> None:
    """Starts the job that writes the next answer."""
    first = provider or state.provider()
    if provider or first != st.session_state.get("asked", LLMServiceFactory.active()):
        # A person who has just chosen a provider wants it tried, whatever happened a moment ago.
        breaker.worked(_service(first))
    st.session_state.asked = first
    services = chain(first, _service)
    _warm_up(services)
    documents = {
        NO_DOCUMENTS: None,
        library.SAMPLE: library.sample,
    }.get(collection, partial(library.collection, collection))
    model = state.model() if first == state.provider() else None
    try:
        Job(Ask(question, services, documents, model), conversation, load_settings().home_dir)
    except GearshiftError as problem:
        st.session_state.problem = problem


def _warm_up(services: list[BaseLLMService]) -> None:
    """Lets the provider that will probably answer start up while passages are searched."""
    for service, look in zip(services, state.watch().look(services), strict=True):
        if look.status.ready:
            submit(service.warm_up())
            return


def _show_turns(conversation: Conversation, collection: str) -> None:
    known = set(known_sources(conversation))
    job = last_job(conversation)
    for turn in conversation.turns:
        with st.chat_message("user", avatar=":material/person:"):
            st.text(turn.question)
        with st.chat_message("assistant", avatar=":material/settings:"):
            if job is not None and turn is job.answer and job.running:
                _live(job)
            else:
                show(turn, known)
    last = conversation.turns[-1]
    if job is None or not job.running:
        _next_steps(conversation, last, collection)


@refreshed(every=0.4)
def _live(job: Job) -> None:
    """The answer as far as it has come; the whole page again when it has ended."""
    if not job.running:
        st.rerun()
    if st.button("Stop", icon=":material/stop_circle:"):
        job.stop()
    show(job.answer, set())


def _next_steps(conversation: Conversation, last: Answer, collection: str) -> None:
    """After an answer that is not whole: ask again, or ask somebody else."""
    if last.provider == "embedded" and last.state is State.DONE:
        _about_the_embedded_model()
    if last.state in (State.FAILED, State.STOPPED):
        other = next(s for s in chain("ollama", _service) if s.name != last.provider)
        again, elsewhere, _ = st.columns([2, 3, 1])
        if again.button("Ask again", icon=":material/refresh:", width="stretch"):
            _ask(conversation, last.question, collection)
            st.rerun()
        if elsewhere.button(
            f"Ask {other.label} instead", icon=":material/shuffle:", width="stretch"
        ):
            _ask(conversation, last.question, collection, provider=other.name)
            st.rerun()


main()
