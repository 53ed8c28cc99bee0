"""Migrate: from Ollama to vLLM in five steps, each of which can be left and taken up again."""

from __future__ import annotations

import streamlit as st

from gearshift.errors import GearshiftError
from gearshift.migrate.inventory import Item, of_ollama
from gearshift.migrate.rollback import last_cut_over
from gearshift.migrate.serving import checkpoint_folder
from gearshift.migrate.verdict import kept
from gearshift.settings import Settings, load_settings
from parts import migration
from parts.state import show_problem

_STEPS = {
    "have": "1 · What you have",
    "plan": "2 · What it becomes",
    "weights": "3 · The weights",
    "proof": "4 · The proof",
    "switch": "5 · The switch",
}


def main() -> None:
    st.title("Migrate")
    st.write(
        "From Ollama to vLLM in five steps. Nothing of Ollama's is changed, what has been done is "
        "kept when you leave, and the way back is one click."
    )
    settings = load_settings()
    try:
        with st.spinner("Asking Ollama what it has"):
            items = _items(settings.ollama_base_url)
    except GearshiftError as problem:
        show_problem(problem)
        return
    items = [item for item in items if not item.embeds]
    if not items:
        st.info("Ollama has no model that chats. Next: ollama pull mistral")
        return
    names = [item.name for item in items]
    default = next((n for n, item in enumerate(items) if item.default), 0)
    name = st.selectbox("Model", names, index=default, key="migrate-model")
    item = items[names.index(name)]
    done = _done(item, settings)
    first = next((step for step in _STEPS if step not in done), "switch")
    key = f"migrate-step-{name}"
    st.session_state.setdefault(key, first)
    step = st.segmented_control(
        "Step",
        list(_STEPS),
        format_func=lambda key: _STEPS[key] + (" ✓" if key in done else ""),
        key=key,
        label_visibility="collapsed",
    )
    shown = {
        "have": migration.show_inventory,
        "plan": migration.show_plan,
        "weights": migration.show_weights,
        "proof": migration.show_parity,
        "switch": migration.show_cutover,
    }
    with st.container():
        shown[step or first](item, settings)


@st.cache_data(ttl=30, show_spinner=False)
def _items(url: str) -> list[Item]:
    return of_ollama(load_settings())


def _done(item: Item, settings: Settings) -> set[str]:
    """The steps that have left something behind."""
    found = {"have", "plan"}
    if (checkpoint_folder(item.name, settings) / "config.json").is_file():
        found.add("weights")
    report = kept(item.name, settings)
    if report is not None:
        found.add("weights")
    if report is not None and report["verdict"] in ("same", "near"):
        found.add("proof")
    last = last_cut_over(settings)
    if last is not None and not last["taken_back"] and last.get("model") == item.name:
        found.add("switch")
    return found


main()
