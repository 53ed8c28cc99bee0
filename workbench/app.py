"""The workbench: a router over the pages, and what every page needs before it runs.

streamlit run workbench/app.py
"""

from pathlib import Path

import streamlit as st

from gearshift import logs
from gearshift.errors import SettingsError
from gearshift.settings import load_settings
from parts import races, state, warm

races.prevent()
st.set_page_config(page_title="Gearshift", page_icon="⚙️", layout="wide")

try:
    settings = load_settings()
except SettingsError as wrong:
    st.title("Gearshift cannot start")
    st.error(wrong.message)
    st.write(f"Next: {wrong.hint}, then reload this page.")
    st.stop()

logs.configure(settings, console=True)

state.keep_forms()

st.logo(Path(__file__).with_name("logo.svg"), size="large")

st.navigation(
    [
        st.Page("views/chat.py", title="Chat", icon=":material/forum:", default=True),
        st.Page("views/documents.py", title="Documents", icon=":material/description:"),
        st.Page("views/servers.py", title="Servers", icon=":material/dns:"),
        st.Page("views/plan.py", title="Plan", icon=":material/straighten:"),
        st.Page("views/migrate.py", title="Migrate", icon=":material/moving:"),
        st.Page("views/tune.py", title="Tune", icon=":material/tune:"),
        st.Page("views/monitor.py", title="GPU and engine", icon=":material/monitoring:"),
        st.Page("views/benchmark.py", title="Benchmark", icon=":material/speed:"),
        st.Page("views/doctor.py", title="Doctor", icon=":material/stethoscope:"),
    ]
).run()
warm.up()
