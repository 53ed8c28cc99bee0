"""What one person's session holds: conversation, choices. Nothing here is shared between people."""

from __future__ import annotations

from typing import Any

import streamlit as st

from gearshift.errors import GearshiftError
from gearshift.providers import LLMServiceFactory, Watch
from gearshift.rag.conversations import Conversation, opened
from gearshift.settings import load_settings
from parts.markdown import plain


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
        try:
            found = opened(load_settings().home_dir, address)
        except GearshiftError as problem:
            show_problem(problem)
        if found is None:
            st.warning("There is no conversation at this address. A new one begins here.")
            del st.query_params["c"]
    st.session_state.conversation = found or Conversation()
    return st.session_state.conversation


def new_conversation() -> None:
    st.session_state.conversation = Conversation()
    st.query_params.pop("c", None)


def form(name: str, first: Any = None) -> str:
    """The key of a field whose value stays when its page is left; `first` is its first value."""
    key = f"form: {name}"
    if first is not None:
        st.session_state.setdefault(key, first)
    return key


def keep_forms() -> None:
    """To be called on every page: Streamlit forgets the fields that are not shown."""
    for key in st.session_state:
        if str(key).startswith("form: "):
            st.session_state[key] = st.session_state[key]


def show_problem(problem: GearshiftError) -> None:
    """What went wrong and what to do next; nothing in it is taken for Markdown."""
    st.error(f"{plain(problem.message)}. Next: {plain(problem.hint)}.")


def provider() -> str:
    """The provider that this person chose, else the default."""
    return st.session_state.get("provider") or LLMServiceFactory.active()


def model() -> str | None:
    """The model that this person chose of that provider."""
    return st.session_state.get("models", {}).get(provider())
