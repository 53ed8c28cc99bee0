"""What the tests of a migration share."""

import pytest

from two_sides import Sides


@pytest.fixture
def sides(serve, make_settings, monkeypatch):
    """Both servers, with settings and an environment that name them."""
    found = Sides()
    addresses = {
        "ollama_base_url": serve(found.ollama).url,
        "vllm_base_url": serve(found.vllm).url,
    }
    for name, url in addresses.items():
        monkeypatch.setenv(name.upper(), url)
    found.settings = make_settings(**addresses)
    return found
