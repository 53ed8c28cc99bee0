"""What the tests share: a home of their own, servers, services with small budgets."""

import logging
import os

import pytest

from gearshift.engine import environment
from gearshift.providers import LLMServiceFactory, breaker
from gearshift.providers import _models as models_module
from gearshift.rag import library
from gearshift.rag.embedders import MiniLM
from gearshift.settings import Settings, load_settings, variable_name
from places import ROOT, free_port
from scripted_server import ScriptedServer

VARIABLES = [variable_name(field) for field in Settings.model_fields]


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory):
    """The embedder's graph, made once for all tests."""
    home = tmp_path_factory.mktemp("shared")
    MiniLM(home).embed(["warm"])
    return home / "models"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home, a working directory and an environment without settings, for each test."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("GEARSHIFT_HOME", str(folder))
    # Nothing listens there, whatever runs on this machine.
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("VLLM_BASE_URL", f"http://127.0.0.1:{free_port()}")
    # What a test says of a model must not depend on whether the Hub can be reached.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _forget()
    yield folder
    _forget()


def _forget():
    logger = logging.getLogger("gearshift")
    for handler in [*logger.handlers]:
        if handler.name == "gearshift":
            logger.removeHandler(handler)
            handler.close()
    LLMServiceFactory.reset()
    load_settings.cache_clear()
    library._opened.clear()
    breaker._until.clear()
    models_module._remembered.clear()


@pytest.fixture
def embedding_home(home, shared_models):
    """The home with the embedder's graph in it."""
    (home / "models").symlink_to(shared_models)
    return home


@pytest.fixture
def serve():
    """Starts scripted servers, and stops them."""
    servers = []

    def start(script) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def make_settings(home):
    """Settings with small budgets."""

    def make(**fields) -> Settings:
        budgets = {
            "connect_timeout": 1.0,
            "first_token_timeout": 1.5,
            "progress_timeout": 0.6,
            "total_timeout": 4.0,
        }
        return Settings(**{**budgets, **fields}, _env_file=None)

    return make


@pytest.fixture
def real_ollama() -> str:
    """The address of a real Ollama."""
    url = os.environ.get("OLLAMA_TEST_URL")
    if not url:
        pytest.skip("no real Ollama: start one and set OLLAMA_TEST_URL to its address")
    return url


@pytest.fixture(scope="session")
def engine_python():
    """The Python of a real vLLM, where one can be had: `make test` installs it into `.engine`."""
    settings = Settings(home=ROOT / ".engine", _env_file=None)
    if not environment.installed(settings):
        pytest.skip("no vLLM to test with: GEARSHIFT_HOME=.engine gearshift engine install")
    return environment.python(settings)
