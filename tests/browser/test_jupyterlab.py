"""A newcomer in JupyterLab: from the first notebook to the end of the fourth, without an edit."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from playwright.sync_api import TimeoutError

from gearshift.engine import environment, servers
from gearshift.settings import Settings
from places import ROOT, free_port

pytestmark = pytest.mark.soak  # vLLM is installed, and started for the first time

FIRST = ["01_first_answer", "02_installation_checks", "03_providers", "04_first_vllm_server"]
_LONGEST = 900  # seconds for a notebook
_CLICKS = 5
_TOKEN = "of-a-test"


def unrun(path):
    """Takes away what a run has left, so that whatever is there later is of this one."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(book, path)


class Lab:
    """`make notebooks` in a copy of what it needs, the environment being there already."""

    def __init__(self, folder, home):
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        for name in ("notebooks", ".jupyter"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("Makefile", "README.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / name, folder)
        (folder / ".venv").symlink_to(sys.prefix)
        for path in (folder / "notebooks").glob("*.ipynb"):
            unrun(path)
        # Neither a vLLM of the tests nor settings of theirs: what a newcomer has.
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("GEARSHIFT_", "HF_"))}
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):  # the tests' browser is enough
            inherited.pop(name, None)
        variables = {"GEARSHIFT_HOME": str(home)}
        variables |= {"JUPYTER_PORT": str(self.port), "JUPYTER_TOKEN": _TOKEN}
        self.log = home / "lab.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["make", "--old-file=.venv/ready-notebooks", "notebooks"],
                cwd=folder, env=inherited | variables, stdout=log, stderr=log, process_group=0,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.ask("/api/status"):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def ask(self, path):
        try:
            with urllib.request.urlopen(f"{self.url}{path}?token={_TOKEN}", timeout=10) as found:
                return json.load(found)
        except OSError:
            return None

    def end(self):
        os.killpg(self._process.pid, signal.SIGTERM)  # make, and what it has started
        self._process.wait(60)
        deadline = time.monotonic() + 60
        while self.ask("/api/status"):
            assert time.monotonic() < deadline, "JupyterLab does not end"
            time.sleep(0.2)


@pytest.fixture
def lab(tmp_path, home):
    folder = tmp_path / "project"
    folder.mkdir()
    started = Lab(folder, home)
    yield started
    started.end()
    settings = Settings(home=home, _env_file=None)
    for record in servers.status(settings):
        servers.stop(record, settings, 0.0)
    environment.remove(settings)


def run_all(page):
    """Asks for all cells, again if that was lost: a kernel may show as idle before it listens."""
    begun = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]")).first
    for _ in range(_CLICKS):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(TimeoutError):
            begun.wait_for(timeout=10_000)
            return
    raise AssertionError(f"no cell began after {_CLICKS} clicks")


def cells_after(page, lab, name):
    """The code cells, as they were saved after a run from top to bottom."""
    page.goto(f"{lab.url}/lab/tree/notebooks/{name}.ipynb?reset&token={_TOKEN}")
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    run_all(page)
    deadline = time.monotonic() + _LONGEST
    while True:
        page.keyboard.press("Control+s")
        time.sleep(2)
        saved = nbformat.read(lab.folder / "notebooks" / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in saved.cells if cell.cell_type == "code"]
        failed = any(out.output_type == "error" for cell in cells for out in cell.outputs)
        if failed or cells[-1].execution_count:
            return cells
        if time.monotonic() > deadline:
            page.screenshot(path=lab.log.with_name(f"{name}.png"))
            raise AssertionError(f"{name} does not come to its end, see {lab.log.parent}")


def test_from_the_first_notebook_to_the_end_of_the_fourth(lab, visit):
    for name in FIRST:
        cells = cells_after(visit("about:blank"), lab, name)
        wrong = [out for cell in cells for out in cell.outputs if out.output_type == "error"]
        assert wrong == [], name
        warned = [out.text for cell in cells for out in cell.outputs if out.get("name") == "stderr"]
        assert warned == [], name
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), name
    said = [line for line in lab.log.read_text().splitlines() if line.startswith("[W")]
    assert said == [], "a warning that nobody explains"
