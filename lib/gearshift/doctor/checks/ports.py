"""The providers' ports: free, or who listens there, and whether that is what we look for."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from gearshift.doctor.checks._base import Finding, Machine, failed, passed, unknown, warning
from gearshift.engine.processes import name_of, port_owner
from gearshift.errors import NotAnLLMServer, ProtocolError, ProviderError, TimedOut
from gearshift.providers import BaseLLMService, run
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.settings import is_loopback, port_of


def check_ollama_port(machine: Machine) -> Finding:
    """Who listens where Ollama should be?"""
    return _port(machine, OllamaService(machine.settings), "OLLAMA_BASE_URL")


def check_vllm_port(machine: Machine) -> Finding:
    """Who listens where vLLM should be?"""
    service = VLLMService(machine.settings)
    found = _port(machine, service, "VLLM_BASE_URL")
    as_ollama = machine.settings.model_copy(update={"ollama_base_url": service.url})
    # Ollama answers OpenAI's requests, too, so that alone does not tell them apart.
    if run(OllamaService(as_ollama).check_connection()).version is not None:
        return warning(
            f"Ollama answers at VLLM_BASE_URL ({service.url}), no vLLM",
            "correct VLLM_BASE_URL in .env, or start vLLM on a free port: "
            "gearshift serve MODEL --port 8001",
        )
    return found


def _port(machine: Machine, service: BaseLLMService, setting: str) -> Finding:
    url, label, port = service.url, service.label, port_of(service.url)
    if not is_loopback(url):
        return passed(f"{setting} is on another machine: {urlsplit(url).hostname}")
    if not _listens(url):
        return passed(f"port {port} is free")
    record = machine.our_server(url)
    process = port_owner(port)
    owner = f"{name_of(process.pid)} (pid {process.pid})" if process else "a program of other users"
    said = f"port {port}: {f'our server {record.name}' if record else owner} listens"
    who = f"see who listens: sudo ss -ltnp 'sport = :{port}'"
    try:
        run(service.list_models())
    except (NotAnLLMServer, ProtocolError):
        ending = f"end it (kill {process.pid})" if process else who
        # If people are meant to be answered from there, nobody is.
        found = failed if machine.settings.llm_provider == service.name else warning
        return found(
            f"{said}, and it is no {label}",
            f"{ending}, or set {setting} to where {label} is: "
            f"echo {setting}=http://localhost:{port + 1} >> .env",
        )
    except TimedOut as silent:
        return warning(f"{said}, and does not answer", f"{silent.hint}; {who}")
    except ProviderError as wrong:
        return unknown(f"{said}: {wrong.message}", f"{wrong.hint}; {who}")
    return passed(said)


def _listens(url: str) -> bool:
    """Whether anybody accepts a connection there."""
    try:
        with socket.create_connection((urlsplit(url).hostname or "", port_of(url)), timeout=2.0):
            return True
    except OSError:
        return False
