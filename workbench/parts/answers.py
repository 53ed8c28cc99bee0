"""How an answer and its sources look."""

from __future__ import annotations

import re

import streamlit as st

from gearshift.providers import LLMServiceFactory
from gearshift.rag.chat import known_sources
from gearshift.rag.conversations import Conversation
from gearshift.rag.prompt import label
from gearshift.schemas import Answer, CitedBy, FinishReason, Passage, State
from parts.markdown import cited, plain, safe

_HEADING = re.compile(r"(?m)^#{1,6}[ \t]+(.*?)[ \t]*#*$")  # a passage must not shout over the page
_WAITS = {
    State.SEARCHING: "Searching the documents …",
    State.WAITING: "Waiting for the answer to begin … a model that is not loaded yet takes longer",
}


def _name(provider: str) -> str:
    return LLMServiceFactory.get_service(provider).label


def show(answer: Answer, known: set[int]) -> None:
    """One answer, in whatever state it is."""
    if answer.reasoning:
        with st.expander("Reasoning", icon=":material/psychology:"):
            st.markdown(safe(answer.reasoning))
    if answer.state in _WAITS:
        st.caption(_WAITS[answer.state])
        return
    instead = f" **{_name(answer.provider)}** answers instead." if answer.provider else ""
    for provider, why in answer.skipped.items():
        if answer.error and why == answer.error["message"]:
            continue  # it is said below
        st.warning(
            f"{_name(provider)} did not answer: {plain(why)}.{instead}", icon=":material/shuffle:"
        )
    st.markdown(cited(answer, known) if answer.complete else safe(answer.text))
    if answer.state is State.ANSWERING:
        return
    if answer.complete and not answer.text:
        st.info("The model answered with nothing.", icon=":material/chat_bubble:")
    if answer.state is State.STOPPED:
        st.warning("Stopped: this answer is not complete.", icon=":material/stop_circle:")
    if answer.error:
        began = "This answer broke off. " if answer.text else ""
        st.error(
            f"{began}{plain(answer.error['message'])}  \nNext: {plain(answer.error['hint'])}",
            icon=":material/error:",
        )
    if answer.finish_reason is FinishReason.LENGTH:
        st.info("Cut: the answer reached its longest length.", icon=":material/content_cut:")
    left_out = [item for item in answer.dropped if item.what in ("passage", "turn")]
    if left_out:
        with st.expander(
            f"Left out of the prompt for want of room: {len(left_out)}",
            icon=":material/inventory_2:",
        ):
            st.markdown("\n".join(f"- {item.what}: {plain(item.name)}" for item in left_out))
    for item in answer.dropped:
        if item not in left_out:
            st.warning(f"{item.what.capitalize()}: {plain(item.name)}", icon=":material/warning:")
    if answer.provider:
        st.caption(_facts(answer))


def _facts(answer: Answer) -> str:
    """Who wrote it, how fast, and how its sentences are supported."""
    parts = [f"**{_name(answer.provider)}** · {plain(answer.model)}"]
    if answer.timings.ttft_s is not None:
        parts.append(f"first token {answer.timings.ttft_s:.2f} s")
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:.0f} tokens/s")
    if answer.usage.completion_tokens is not None:
        parts.append(f"{answer.usage.completion_tokens} tokens")
    by_model = sum(citation.by is CitedBy.MODEL for citation in answer.citations)
    matched = sum(citation.by is CitedBy.MATCH for citation in answer.citations)
    if by_model:
        parts.append(f"{by_model} cited by the model")
    if matched:
        parts.append(f"≈ {matched} matched afterwards")
    if answer.unsupported:
        parts.append(f"{len(answer.unsupported)} without a source")
    return " · ".join(parts)


def show_sources(conversation: Conversation) -> None:
    """The passages that the conversation's numbers stand for, the last answer's first."""
    known = known_sources(conversation)
    if not known:
        st.caption("The passages that an answer rests on appear here.")
        return
    last = conversation.turns[-1]
    found, now = ({one.number for one in ones} for ones in (last.sources, last.citations))
    cited_numbers = {c.number for turn in conversation.turns for c in turn.citations}
    order = sorted(known, key=lambda n: (n not in now, n not in found, n not in cited_numbers, n))
    for number in order:
        source = known[number]
        with st.container(border=True):
            mark = " :green-badge[cited]" if number in cited_numbers else ""
            title = f"\\[{number}\\] {plain(label(source.passage))}{mark}"
            st.subheader(title, anchor=f"source-{number}")
            st.markdown(safe(_HEADING.sub(r"**\1**", _below_its_title(source.passage))))


def _below_its_title(passage: Passage) -> str:
    """The text without a first heading that the card's title ends with already."""
    first = _HEADING.match(passage.text)
    if first and passage.heading and first[1] == passage.heading[-1]:
        return passage.text[first.end() :].lstrip("\n")
    return passage.text
