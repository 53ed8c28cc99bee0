"""Servers: start a vLLM server, watch it start, read its log, stop it."""

from __future__ import annotations

import shlex
import threading

import streamlit as st

from gearshift import gpu
from gearshift.doctor.starts import start_instead
from gearshift.engine import environment as engine
from gearshift.engine import servers
from gearshift.engine.checks import Check, Status, run_checks
from gearshift.engine.export import as_shell, docker_command, systemd_unit
from gearshift.engine.launch import config_yaml
from gearshift.engine.profiles import in_words, profiles
from gearshift.engine.records import LIVING, Failure, Record, State
from gearshift.engine.redact import secrets
from gearshift.engine.start import Start, Wish, prepare
from gearshift.errors import GearshiftError
from gearshift.settings import Settings, load_settings, port_of
from parts.causes import explained, show_report
from parts.markdown import plain
from parts.refreshed import refreshed
from parts.state import show_problem

_LIGHTS = {
    State.READY: ":green[●]",
    State.DEGRADED: ":orange[●]",
    State.STOPPED: ":gray[○]",
    State.FAILED: ":red[●]",
}
_STARTING = ":blue[◌]"
_MARKS = {
    Status.PASSED: ":green[:material/check:]",
    Status.REFUSED: ":red[:material/close:]",
    Status.UNKNOWN: ":orange[:material/help:]",
}
_LOG_LINES = 40


def main() -> None:
    st.title("Servers")
    st.write(
        "vLLM servers on this machine. They go on when this page, or the workbench, is closed, and "
        "are found again when it is opened."
    )
    _running()
    st.subheader("Start one")
    _form()


@refreshed(every=1)
def _running() -> None:
    records = servers.status(load_settings())
    if not records:
        st.info("No server has been started here yet.", icon=":material/dns:")
    for record in records:
        _card(record)


def _card(record: Record) -> None:
    with st.container(border=True):
        left, right = st.columns([5, 1], vertical_alignment="center")
        light = _LIGHTS.get(record.state, _STARTING)
        left.markdown(f"{light} **{plain(record.name)}** · {record.state} · {plain(record.model)}")
        living = record.state in LIVING
        right.button(
            "Stop" if living else "Remove",
            key=f"{'stop' if living else 'forget'}-{record.name}",
            icon=":material/stop:" if living else ":material/close:",
            width="stretch",
            on_click=_stop if living else _forget,
            args=(record,),
        )
        if record.state in (State.STARTING, State.INSTALLING):
            usual = f", usually {record.estimate_s:.0f} s in all" if record.estimate_s else ""
            st.progress(record.progress or 0.0, plain(f"{record.stage or 'starting'}{usual}"))
        elif record.state is State.STOPPING:
            st.caption(plain(record.stage))
        elif record.state is State.READY:
            _how_to_use(record)
        if record.failure is not None and record.state is State.FAILED:
            _why(record, record.failure)
        with st.expander("Log", icon=":material/notes:"):
            lines = list(servers.follow(record, load_settings(), ever=False))[-_LOG_LINES:]
            st.code("\n".join(lines) or "(empty)", language=None, height=300)


def _why(record: Record, failure: Failure) -> None:
    report = explained(record)
    what = failure.message.rstrip(". ")
    hint = "" if report.causes else f" Next: {plain(failure.hint)}."
    st.error(f"{plain(what)}.{hint}")
    if not report.causes:
        return
    instead = start_instead(record, report, load_settings())
    if instead is not None:
        options = report.causes[0].options.items()
        changes = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in options)
        st.button(
            "Start it corrected",
            key=f"correct-{record.name}",
            icon=":material/build:",
            help=plain(f"with {changes}"),
            on_click=_start_instead,
            args=(instead,),
        )
    with st.expander("Why, and how to mend it", icon=":material/stethoscope:", expanded=True):
        show_report(report)


def _start_instead(record: Record) -> None:
    try:
        servers.serve(record, load_settings())
    except GearshiftError as problem:
        show_problem(problem)


def _stop(record: Record) -> None:
    # It waits for running answers, so it goes on while the page shows `stopping`.
    arguments = (record, load_settings())
    threading.Thread(target=servers.stop, args=arguments, daemon=True).start()


def _forget(record: Record) -> None:
    try:
        servers.forget(record, load_settings())
    except GearshiftError as problem:
        show_problem(problem)


def _how_to_use(record: Record) -> None:
    settings = load_settings()
    if record.launch.port == port_of(settings.vllm_base_url):
        st.caption(f"{plain(record.url)} · choose vLLM in the chat to use it")
    else:
        line = f"VLLM_BASE_URL={record.url}"
        st.caption(f"{plain(record.url)} · for the chat, write {plain(line)} into .env")


def _form() -> None:
    settings = load_settings()
    wide, narrow = st.columns([3, 1])
    model = wide.text_input(
        "Model",
        placeholder="owner/name on the Hub, a folder, or an Ollama name",
        help="Looked for below VLLM_MODEL_PATH first.",
        key="server-model",
    )
    free = _free_port(settings)
    port = narrow.number_input(
        "Port", 1, 65_535, value=None, placeholder=f"{free}, which is free", key="server-port"
    )
    one, two, three, four = st.columns(4)
    count = one.number_input("GPUs", 1, 8, settings.vllm_gpu_count)
    size = two.number_input(
        "Tensor parallel",
        1,
        8,
        settings.vllm_tensor_parallel_size,
        help="How many GPUs share each layer; it divides the GPUs and the model's heads.",
    )
    known = profiles(settings.home_dir)
    profile = three.selectbox("Profile", ["(vLLM's defaults)", *known])
    context = four.number_input(
        "Longest context", 1, value=None, placeholder="the model's", help="In tokens."
    )
    _what_is_here(settings)
    start = None
    with st.container():
        if model.strip():
            wish = Wish(
                model.strip(),
                int(count),
                int(size),
                port=int(port or free),
                profile=profile if profile in known else None,
                choices={"max_model_len": int(context) if context else None},
            )
            start = _preview(wish, settings)
    # A button's own value can get lost while a part of the page is refreshed (Streamlit 1.67); a
    # callback is not. What is started is what the form says now, so it only takes a note.
    st.button(
        "Start",
        type="primary",
        icon=":material/play_arrow:",
        disabled=start is None,
        on_click=lambda: st.session_state.update(start_pressed=True),
        key="server-start",
    )
    if st.session_state.pop("start_pressed", False) and start is not None:
        _start(start)


def _free_port(settings: Settings) -> int:
    """The configured port, or the next one on which no server of ours runs."""
    taken = {r.launch.port for r in servers.status(settings) if r.state in LIVING}
    port = port_of(settings.vllm_base_url)
    while port in taken:
        port += 1
    return port


def _what_is_here(settings: Settings) -> None:
    """What a newcomer should know before the first start."""
    if not engine.installed(settings) and settings.vllm_python is None:
        st.caption(
            "vLLM is not installed yet: the first start installs it, which takes minutes and some "
            "gigabytes."
        )
    found = gpu.look()
    if not found.gpus:
        st.caption(plain(f"{found.problem or 'No GPU was found'}: it will run on the processor."))


def _preview(wish: Wish, settings: Settings) -> Start | None:
    """What would be started, and what is against it; nothing when something is."""
    try:
        start = prepare(wish, settings)
        checks = run_checks(start.plan, ask_hub=False)
    except GearshiftError as problem:
        show_problem(problem)
        return None
    _show_checks(checks)
    _show_commands(start.record, settings)
    if start.profile:
        for key, reason in start.profile.reasons.items():
            st.caption(plain(f"{in_words({key: start.profile.values[key]})}: {reason}"))
    refused = any(check.status is Status.REFUSED for check in checks)
    return None if refused else start


def _show_checks(checks: list[Check]) -> None:
    # In one container, so that more or fewer of them leave what follows where it is.
    with st.container():
        for check in checks:
            if check.status is not Status.PASSED:
                hint = f" — {plain(check.hint)}" if check.hint else ""
                st.markdown(f"{_MARKS[check.status]} {plain(check.message)}{hint}")
        passed = sum(check.status is Status.PASSED for check in checks)
        st.caption(f"{passed} of {len(checks)} checks passed")


def _show_commands(record: Record, settings: Settings) -> None:
    command, docker, unit, yaml = st.tabs(["Command", "Docker", "systemd", "YAML"])
    with command:
        st.code(as_shell(record.command, record.environment), language="bash", wrap_lines=True)
    with docker:
        name, tag = f"gearshift-{record.name}", f"v{engine.VLLM_VERSION}"
        line = shlex.join(docker_command(record.launch, name, tag, secrets(settings)))
        st.code(line, language="bash", wrap_lines=True)
    with unit:
        st.code(systemd_unit(record.command, record.environment, record.model), language="ini")
    with yaml:
        st.code(config_yaml(record.launch), language="yaml")


def _start(start: Start) -> None:
    try:
        with st.spinner("Starting it"):
            against = [c for c in run_checks(start.plan) if c.status is Status.REFUSED]
            if against:
                st.error(f"{plain(against[0].message)}. {plain(against[0].hint)}")
                return
            servers.serve(start.record, load_settings())
            st.toast(f"{plain(start.record.name)} is starting: see above.")
    except GearshiftError as problem:
        show_problem(problem)
        return
    st.rerun()


main()
