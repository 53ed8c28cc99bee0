"""Every notebook runs, shows what is committed, and leaves nothing behind."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import nbformat
import pytest
from run_notebooks import digest

from gearshift.bench import crossover
from gearshift.doctor.checks import CHECKS, run_machine_checks
from gearshift.engine import environment, servers
from gearshift.engine.processes import alive
from gearshift.engine.records import STARTS
from gearshift.engine.start import Wish, carry_out
from gearshift.migrate.convert import convert
from gearshift.migrate.serving import checkpoint_folder
from gearshift.notebook import SMALL_MODEL
from gearshift.providers import run as on_loop
from gearshift.providers._llama_server import MODEL_NAME, weights
from gearshift.providers.vllm import VLLMService
from gearshift.rag.index import collections
from gearshift.settings import Settings
from places import ROOT, free_port

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = Path(__file__).with_name("sanitize.cfg")
NAMES = [path.name for path in PATHS]
WITH_SERVERS = [path for path in PATHS if not path.name.startswith(("01", "02"))]
WITHOUT = [path for path in reversed(PATHS) if path.name.startswith(("01", "02", "03", "08"))]
"""Those that need none, and the two that go on with what is there when Ollama or vLLM is missing.

Of the others 04 would install vLLM, and 05, 06, 07 and 09 leave cells out at one and the same
question, `has_vllm`. From the last to the first: each can be run alone.
"""
ASKS_OLLAMA = ("03", "08")
"""Not 07: to measure an Ollama that is only there to be asked would take minutes."""
SHARING = ("03", "06", "07")
"""Who would each start the same server: starting one takes most of their time."""
PORT_TAKEN = "05"
"""Where somebody else holds the port that it would take."""
STARTED = {"04": 1, "05": 1, "06": 3, "08": 1, "09": 2}
"""The servers that each starts, those of a search and those that fail among them."""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """One home for all: the embedder, the handbook's index and the small model are made once."""
    return tmp_path_factory.mktemp("notebooks") / "home"


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """What torch compiles for one server is there for the next, as on a person's machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(scope="module")
def shared_server(shared_home, engine_python):
    """A server of the small model, for all who need one that is as it comes."""
    url = f"http://localhost:{free_port()}"
    settings = Settings(
        home=shared_home, vllm_python=engine_python, vllm_base_url=url, _env_file=None
    )
    folder = checkpoint_folder(SMALL_MODEL, settings)
    convert(weights(), folder, settings, lambda words, share: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEARSHIFT_HOME", str(shared_home))  # its supervisor goes by that
        record = carry_out(Wish(str(folder), names=(MODEL_NAME,)), settings)
    yield record
    servers.stop(record, settings, 0.0)


@pytest.fixture
def clean(shared_home, monkeypatch):
    """A home, a folder for temporary files, and a look at what is left behind."""
    monkeypatch.setenv("GEARSHIFT_HOME", str(shared_home))
    scratch = Path(tempfile.mkdtemp(prefix="nb"))  # a short path: sockets have room for 100 bytes
    monkeypatch.setenv("TMPDIR", str(scratch))
    settings = Settings(home=shared_home, _env_file=None)
    known = {*collections(shared_home), "sample"}

    def living():
        return {
            record.name: record
            for record in servers.status(settings)
            if any(map(alive, record.tree))
        }

    before = living()
    yield
    left = {name: record for name, record in living().items() if name not in before}
    for record in left.values():
        servers.stop(record, settings, 0.0)
    # What torch has compiled is kept on purpose, for the next start.
    files = sorted(p.name for p in scratch.iterdir() if not p.name.startswith("torchinductor_"))
    shutil.rmtree(scratch)
    assert left == {}
    assert files == []
    assert {*collections(shared_home)} <= known
    assert [*shared_home.glob("env-*")] == []


def run(path, folder):
    """Runs a copy of a notebook in a folder where nothing else is."""
    folder.mkdir()
    copy = Path(shutil.copy(path, folder))
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", str(SANITIZE), "--nbval-cell-timeout", "900"]
    command += ["-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider", copy.name]
    variables = {k: v for k, v in os.environ.items() if k != "OLLAMA_TEST_URL"}
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [file.name for file in folder.iterdir()] == [copy.name]


def starts(home):
    """How many servers were started there, by their logs."""
    logs = (home / "logs").glob("vllm_*.log")
    return sum(log.read_text("utf-8", "replace").count(STARTS) for log in logs)


def answered(server, home):
    """How many requests a server has answered."""
    settings = Settings(home=home, vllm_base_url=server.url, _env_file=None)
    metrics = on_loop(VLLMService(settings).metrics())
    counts = re.findall(r"(?m)^vllm:request_success_total\{.*\} ([\d.e+]+)$", metrics)
    return sum(map(float, counts))


@pytest.mark.parametrize("path", WITH_SERVERS, ids=lambda path: path.name)
def test_a_notebook_runs_anywhere_and_shows_what_is_committed(
    path, request, engine_python, shared_home, tmp_path, monkeypatch
):
    number, url = path.name[:2], os.environ.get("OLLAMA_TEST_URL")
    monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(engine_python))
    if url and number in ASKS_OLLAMA:
        monkeypatch.setenv("OLLAMA_BASE_URL", url)
    shared = request.getfixturevalue("shared_server") if number in SHARING else None
    if shared:
        monkeypatch.setenv("VLLM_BASE_URL", shared.url)
    request.getfixturevalue("clean")
    before = starts(shared_home), shared and answered(shared, shared_home)
    with ExitStack() as held:
        if number == PORT_TAKEN:
            port = int(os.environ["VLLM_BASE_URL"].rpartition(":")[2])
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        run(path, tmp_path / "elsewhere")
    # A run that has skipped everything would be green, too.
    wanted = 0 if number == "08" and not url else STARTED.get(number, 0)
    assert starts(shared_home) - before[0] == wanted
    assert not shared or answered(shared, shared_home) > before[1]


@pytest.mark.parametrize("path", WITHOUT, ids=lambda path: path.name)
def test_a_notebook_says_what_it_skips_where_there_is_no_server(path, clean, tmp_path):
    run(path, tmp_path / "elsewhere")


def test_an_ollama_without_vllm_can_be_looked_at(real_ollama, clean, tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_BASE_URL", real_ollama)
    (path,) = (path for path in PATHS if path.name.startswith("08"))
    run(path, tmp_path / "elsewhere")


@pytest.mark.soak
def test_the_notebook_that_installs_vllm_does(clean, engine_python, shared_home, tmp_path):
    (path,) = (path for path in PATHS if path.name.startswith("04"))
    run(path, tmp_path / "elsewhere")
    assert environment.installed(Settings(home=shared_home, _env_file=None))
    environment.remove(Settings(home=shared_home, _env_file=None))


@pytest.fixture(params=PATHS, ids=NAMES)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def texts(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_a_notebook_says_what_it_is_for_and_where_to_go_on(notebook, request):
    words = texts(notebook, "markdown")
    first = words[0]
    assert first.startswith("# ")
    for part in ("**What you will know at the end:**", "**Takes**", "**Needs**", "**With a GPU**"):
        assert part in first, part
    assert "## Exercises" in words[-1]
    assert "**Next:**" in words[-1]
    for target in re.findall(r"\]\(([^)#:]+)\)", "\n".join(words)):
        assert (ROOT / "notebooks" / target).resolve().exists(), target


def test_its_outputs_are_those_of_a_whole_run(notebook):
    """Each cell once, in order, without an error, a warning, or a path of somebody's machine."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("NBVAL_CHECK_OUTPUT" in cell.source for cell in cells)
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            shown = output.get("text", "") + "".join(
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )
            assert not re.search(r"Warning\b|Traceback", shown), shown
            assert not re.search(r"(?<![\w.~])/(tmp|root|home|work|opt|usr)/", shown), shown
    assert set(notebook.metadata) == {"kernelspec", "language_info", "gearshift"}
    again = "its code was changed after it was run: python scripts/run_notebooks.py NN"
    assert notebook.metadata.gearshift == {"ran": digest(notebook)}, again


def test_its_cells_can_fail_and_are_short(notebook):
    """What hides a failure would make a green run worth nothing."""
    for source in texts(notebook, "code"):
        assert "|| true" not in source
        assert "2>" not in source
        assert not source.startswith("%%bash --")
        assert not re.search(r"(?m)^\s*[!%](?!%bash)", source), source
        assert len(source.splitlines()) <= 25, source
        if not source.startswith("%%bash"):
            tree = ast.parse(source, mode="exec", type_comments=False)
            assert not any(isinstance(node, ast.Try) for node in ast.walk(tree)), source


def test_the_second_one_explains_every_check():
    (path,) = (path for path in PATHS if path.name.startswith("02"))
    shown = "\n".join(texts(nbformat.read(path, as_version=4), "code"))
    names = [check.__name__.removeprefix("check_") for check in CHECKS]
    assert [name for name in names if f'"{name}"' not in shown] == []


def test_the_second_one_gives_todays_advice():
    """It is of a whole run of the notebook's code, but the doctor's words may be newer."""
    (path,) = (path for path in PATHS if path.name.startswith("02"))
    compared = []
    today = {check.name: check for check in run_machine_checks(Settings(_env_file=None))}
    for name, message, hint in on_the_page(nbformat.read(path, as_version=4)):
        check = today[name]
        if check.status != "passed" and without_figures(check.message) == message:
            assert without_figures(check.hint) == hint, name
            compared.append(name)
    assert "vllm_token" in compared


def on_the_page(notebook):
    """Of each check that is shown its name, and its message and hint without figures."""
    found = []
    for cell in notebook.cells:
        for line in "".join(o.get("text", "") for o in cell.get("outputs", ())).splitlines():
            if begins := re.match(r"[✓!✗?] (\w+): (.*)", line):
                found.append([*begins.groups(), ""])
            elif line.startswith("    "):
                found[-1][2] += " " + line.removeprefix("    next:").strip()
            elif found:
                found[-1][1] += " " + line
    return [(name, without_figures(said), without_figures(hint)) for name, said, hint in found]


def without_figures(text):
    """On one line, an address as ADDRESS and a number as N."""
    text = re.sub(r"https?://[\w.]+:\d+", "ADDRESS", " ".join(text.split()))
    return re.sub(r"\d[\d.,]*", "N", text)


def test_the_seventh_one_speaks_of_chance_as_today():
    """What is shown is of a whole run of its code, but the sentence's end may be newer."""
    (path,) = (path for path in PATHS if path.name.startswith("07"))
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output.get("text", "") for cell in cells for output in cell.get("outputs", ())]
    said = [text for text in outputs if text.startswith("On this machine vLLM ")]
    once = crossover._chance({"summary": []}, {"vllm": 2.0, "embedded": 1.0}, 1)
    assert said
    assert [text for text in said if once not in text] == []


def test_the_readme_lists_them_in_order():
    readme = (ROOT / "README.md").read_text("utf-8")
    listed = re.findall(r"\]\(notebooks/(\w+\.ipynb)\)", readme)
    assert listed == NAMES


def test_each_one_leads_to_the_next():
    for path, following in zip(PATHS, NAMES[1:], strict=False):
        last = texts(nbformat.read(path, as_version=4), "markdown")[-1]
        assert f"({following})" in last.partition("**Next:**")[2]
