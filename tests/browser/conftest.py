"""A real browser on a real workbench, in a process of its own."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from playwright.sync_api import expect, sync_playwright

from places import ROOT, free_port

# Milliseconds. On a machine that is busy with other things, pages come slowly but they come.
_PATIENCE = 60_000
expect.set_options(timeout=_PATIENCE)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")  # for longer, its event loop would be in the way of other tests
def chromium():
    if CHROMIUM is None:
        pytest.skip("no browser: install Debian's chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens an address as another person would: without the cookies of the ones before."""
    contexts = []

    def open_page(url, **options):
        context = chromium.new_context(viewport={"width": 1400, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_PATIENCE)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


class Workbench:
    """`streamlit run workbench/app.py`, with an environment of its own."""

    def __init__(self, home, folder, variables):
        self.home, self.folder = home, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._environment = os.environ | variables
        self._process = None

    def start(self):
        command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "workbench" / "app.py")]
        settings = (ROOT / ".streamlit" / "config.toml").read_text("utf-8")
        (self.folder / ".streamlit").mkdir(exist_ok=True)
        (self.folder / ".streamlit" / "config.toml").write_text(settings, "utf-8")
        with (self.home / "workbench.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--server.port", str(self.port)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)
        return self

    @property
    def log(self):
        return (self.home / "workbench.log").read_text("utf-8")

    def _answers(self):
        try:
            with urllib.request.urlopen(self.url, timeout=2):
                return True
        except OSError:
            return False

    def stop(self):
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture
def workbench(embedding_home, tmp_path):
    """Starts a workbench with the given settings."""
    started = []

    def start(**variables):
        found = Workbench(embedding_home, tmp_path / "work", variables)
        started.append(found)
        return found.start()

    yield start
    for one in started:
        one.stop()
        assert "Traceback" not in one.log
