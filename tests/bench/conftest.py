"""A load server with known times, and targets for it."""

import pytest

from gearshift.bench import find_service, find_target
from known_server import KnownServer


@pytest.fixture(scope="module")
def known():
    server = KnownServer()
    yield server
    server.stop()


@pytest.fixture
def target(known):
    """Makes targets; the model's name is the script of the server."""
    return lambda script: find_target(find_service("vllm", known.url), script)
