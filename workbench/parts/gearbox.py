"""The sidebar's gearbox: provider and model, each with a live light, and the default."""

from __future__ import annotations

import streamlit as st

from gearshift.errors import SettingsError
from gearshift.providers import LLMServiceFactory, Look
from gearshift.providers.ollama import OllamaService
from gearshift.settings import ENV_FILE, PROVIDERS, save_setting
from parts import state
from parts.markdown import plain
from parts.pull import get_a_model
from parts.refreshed import refreshed

ANY = "(best match)"


def _light(look: Look) -> str:
    """A filled green dot, an empty red one, or a dotted one while nothing is known."""
    if look.seen is None:
        return ":gray[◌]"
    return ":green[●]" if look.status.ready else ":red[○]"


@refreshed(every=4)
def gearbox() -> None:
    """Choose who answers the next message; lights are refreshed while the page is open."""
    services = [LLMServiceFactory.get_service(name) for name in PROVIDERS]
    looks = dict(zip(PROVIDERS, state.watch().look(services), strict=True))
    labels = {service.name: service.label for service in services}
    chosen = st.radio(
        "Provider",
        PROVIDERS,
        index=PROVIDERS.index(state.provider()),
        format_func=lambda name: f"{_light(looks[name])} {labels[name]}",
        help="Who answers your next message. Only yours: other people keep their own choice.",
    )
    st.session_state.provider = chosen
    look = looks[chosen]
    if not look.status.ready:
        st.caption(plain(look.status.detail))
        if chosen == "vllm":
            st.page_link("views/servers.py", label="Start one", icon=":material/dns:")
    models = [model.name for model in look.models]
    picked = st.session_state.setdefault("models", {}).get(chosen)
    options = [ANY, *models]
    if picked is not None and picked not in options:
        options.append(picked)
    model = st.selectbox(
        "Model",
        options,
        index=options.index(picked) if picked else 0,
        key=f"model-{chosen}",
        help="With the best match it is DEFAULT_MODEL where the provider has it.",
    )
    st.session_state.models[chosen] = None if model == ANY else model
    if look.status.ready:
        st.caption(plain(look.status.detail))
    service = LLMServiceFactory.get_service(chosen)
    if isinstance(service, OllamaService) and look.status.version is not None:
        get_a_model(service)
    if chosen != LLMServiceFactory.active() and st.button(
        "Make it the default", icon=":material/push_pin:", width="stretch"
    ):
        _make_default(chosen)


def _make_default(name: str) -> None:
    try:
        effective = save_setting("LLM_PROVIDER", name)
    except SettingsError as problem:
        state.show_problem(problem)
        return
    LLMServiceFactory.switch(name)
    if effective:
        st.toast(f"{name} is written into {ENV_FILE} as the default.")
    else:
        st.warning("LLM_PROVIDER in the environment wins over .env at the next start: unset it.")
