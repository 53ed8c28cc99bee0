"""Slow generation: weights that vLLM keeps in main memory, and sends over for each token.

It knows the servers of this machine alone, by the command that they were started with; those that
are started from a program tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from gearshift.doctor.checks._base import Finding, Machine, passed, unknown, warning
from gearshift.engine.processes import port_owner
from gearshift.settings import is_loopback, port_of

_OPTIONS = ("--cpu-offload-gb", "--cpu_offload_gb")


def check_vllm_offload(machine: Machine) -> Finding:
    """Does the server at `VLLM_BASE_URL` hold a part of the weights in main memory?"""
    url = machine.settings.vllm_base_url
    owner = port_owner(port_of(url)) if is_loopback(url) else None
    try:
        words = psutil.Process(owner.pid).cmdline() if owner else []
    except psutil.Error:
        words = []
    if not words:
        return unknown(
            "no server of this machine that can be looked at listens there",
            "start one: gearshift serve MODEL; one of another user is seen by: "
            "ps -ef | grep cpu-offload-gb",
        )
    gib = offloaded(words)
    if gib:
        return warning(
            f"vLLM was started with {_OPTIONS[0]} {gib:g}: so many GiB of weights are sent over "
            "the bus for every step, which is many times slower",
            "start it without that option, with a quantized or smaller model or more GPUs: "
            "gearshift plan MODEL says what fits",
        )
    return passed("all weights are on the device")


def offloaded(words: Sequence[str]) -> float:
    """GiB of weights that a command leaves in main memory."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in _OPTIONS:
            try:
                return float(value or following)
            except ValueError:
                return 0.0
    return 0.0
