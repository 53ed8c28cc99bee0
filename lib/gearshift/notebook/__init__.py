"""What the notebooks in `notebooks/` share, so that their cells hold what they teach and no more.

It shows what the library says, starts servers and ends them again. Needs the extra `notebooks`.
"""

from __future__ import annotations

from gearshift.notebook._begin import begin, on_purpose
from gearshift.notebook._borrowed import borrow_env, drop, give_back_env, own_collection, variable
from gearshift.notebook._servers import (
    SMALL_MODEL,
    free_port,
    has_vllm,
    install_vllm,
    planned,
    processes,
    progress,
    ranks_here,
    serve,
    small_model,
    stop,
    tiny_model,
)
from gearshift.notebook._show import answer, causes, checks, memory, table, text
from gearshift.notebook._tuning import tuning
from gearshift.notebook._widgets import fit_plan, watch

__all__ = [
    "SMALL_MODEL",
    "answer",
    "begin",
    "borrow_env",
    "causes",
    "checks",
    "drop",
    "fit_plan",
    "free_port",
    "give_back_env",
    "has_vllm",
    "install_vllm",
    "memory",
    "on_purpose",
    "own_collection",
    "planned",
    "processes",
    "progress",
    "ranks_here",
    "serve",
    "small_model",
    "stop",
    "table",
    "text",
    "tiny_model",
    "tuning",
    "variable",
    "watch",
]
