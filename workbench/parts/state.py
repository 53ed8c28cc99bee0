"""What one person's session holds: conversation, choices. Nothing here is shared between people."""

from __future__ import annotations

import streamlit as st

from gearshift.errors import GearshiftError
from gearshift.providers import LLMServiceFactory, Watch
from gearshift.rag import jobs
from gearshift.rag.conversations import Conversation, load
from gearshift.settings import load_settings


@st.cache_resource
def watch() -> Watch:
    """What providers are like: the same for everybody."""
    return Watch()


def conversation() -> Conversation:
    """The conversation at the page's address, else a new one."""
    address = st.query_params.get("c", "")
    mine: Conversation | None = st.session_state.get("conversation")
    if mine is not None and address in ("", mine.id):
        if mine.turns:
            st.query_params["c"] = mine.id
        return mine
    found = None
    if address:
        job = jobs.running(address)
        try:
            found = job.conversation if job else load(load_settings().home_dir, address)
        except GearshiftError as problem:
            st.error(f"{problem.message}. {problem.hint}.")
        if found is None:
            st.warning("There is no conversation at this address. A new one begins here.")
            del st.query_params["c"]
    st.session_state.conversation = found or Conversation()
    st.session_state.job = jobs.running(address) if found else None
    return st.session_state.conversation


def new_conversation() -> None:
    st.session_state.conversation = Conversation()
    st.session_state.job = None
    st.query_params.pop("c", None)


def provider() -> str:
    """The provider that this person chose, else the default."""
    return st.session_state.get("provider") or LLMServiceFactory.active()


def model() -> str | None:
    """The model that this person chose of that provider."""
    return st.session_state.get("models", {}).get(provider())
