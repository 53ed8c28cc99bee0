"""Getting a model for Ollama: the download goes on in the background while people chat."""

from __future__ import annotations

import streamlit as st

from gearshift.errors import GearshiftError
from gearshift.providers import submit
from gearshift.providers.ollama import OllamaService, PullProgress
from parts.markdown import plain
from parts.state import show_problem


class Pull:
    """One download, its progress, and how it ended."""

    def __init__(self, service: OllamaService, model: str) -> None:
        self.model = model
        self.progress = PullProgress("starting")
        self.error: GearshiftError | None = None
        self._future = submit(self._run(service))

    async def _run(self, service: OllamaService) -> None:
        try:
            async for progress in service.pull(self.model):
                self.progress = progress
        except GearshiftError as error:
            self.error = error

    @property
    def running(self) -> bool:
        return not self._future.done()

    def stop(self) -> None:
        """Ollama keeps what it has, so a later pull goes on from there."""
        self._future.cancel()


def get_a_model(service: OllamaService) -> None:
    """A field for a model's name, and how far its download is."""
    pull: Pull | None = st.session_state.get("pull")
    if pull is not None and pull.running:
        done, total = pull.progress.completed, pull.progress.total
        share = min(done / total, 1.0) if done is not None and total else 0.0
        size = f" of {total / 1e9:.1f} GB" if total else ""
        st.progress(share, f"{plain(pull.model)}: {plain(pull.progress.status)}{size}")
        if st.button("Stop the download", width="stretch"):
            pull.stop()
        return
    with st.popover("Get a model", icon=":material/download:", width="stretch"):
        name = st.text_input("Name in Ollama's library", placeholder="mistral")
        if st.button("Pull it", disabled=not name.strip()):
            st.session_state.pull = Pull(service, name.strip())
            st.rerun(scope="fragment")
    if pull is not None and pull.error is not None:
        show_problem(pull.error)
    elif pull is not None:
        st.caption(f"{plain(pull.model)} has arrived.")
