"""`gearshift gpus`: what the GPUs do."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gearshift import gpu
from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.engine import servers
from gearshift.settings import load_settings

app = typer.Typer()

_GIB = 1 << 30
_PERIOD = 0.5  # seconds


def _row(card: gpu.GPU, owners: dict[int, str]) -> dict[str, Any]:
    """A GPU as `--json` shows it; `owners` are our servers by process."""
    facts = asdict(card)
    holders = facts.pop("holders")
    if holders is not None:
        holders = [holder | {"server": owners.get(holder["pid"])} for holder in holders]
    return facts | {"processes": holders}


@app.command()
def gpus(
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking, until Ctrl-C.")] = False,
    as_json: JSON = False,
) -> None:
    """Show each GPU: memory, load, temperature, power, and who holds its memory."""
    if watch and as_json:
        raise typer.BadParameter("--json prints one object: ask again and again without --watch")
    with reporting(as_json):
        found = gpu.look()
        if as_json:
            facts = asdict(found) | {"gpus": [_row(card, _owners()) for card in found.gpus]}
            print_json(facts | {"links": [asdict(link) for link in gpu.links()]})
        elif watch:
            with Live(_table(found), console=out, auto_refresh=False) as live:
                while True:
                    time.sleep(_PERIOD)
                    live.update(_table(gpu.look()), refresh=True)
        else:
            out.print(_table(found))
            for link in gpu.links():
                out.print(f"GPU {link.first} and {link.second}: {link.kind}", markup=False)


def _owners() -> dict[int, str]:
    """Which of our servers a process belongs to."""
    return {
        process.pid: record.name
        for record in servers.status(load_settings())
        for process in record.tree
    }


def _table(found: gpu.GPUs) -> Group | Text:
    if not found.gpus:
        problem = found.problem or "the driver knows of no GPU"
        return Text(problem + (f" ({found.hint})" if found.hint else ""))
    owners = _owners()
    table = Table("GPU", "name", "memory", "load", "temperature", "power", "who holds the memory")
    below = []
    for card in found.gpus:
        table.add_row(
            str(card.index),
            card.name or "?",
            _memory(card),
            _with_unit(card.utilization_percent, " %"),
            _with_unit(card.temperature_c, " °C"),
            _with_unit(card.power_watts, " W"),
            card.problem or _holders(card, owners),
        )
        below += [Text(f"GPU {card.index}: {note}") for note in card.notes]
    versions = f"driver {found.driver or '?'}, CUDA {found.cuda or '?'}"
    return Group(table, Text(versions), *below)


def _memory(card: gpu.GPU) -> str:
    if card.memory_used_bytes is None or card.memory_total_bytes is None:
        return "?"
    return f"{card.memory_used_bytes / _GIB:.1f} of {card.memory_total_bytes / _GIB:.1f} GiB"


def _with_unit(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f}{unit}"


def _holders(card: gpu.GPU, owners: dict[int, str]) -> str:
    if card.holders is None:
        return "?"
    found = []
    for holder in card.holders:
        size = "" if holder.memory_bytes is None else f" {holder.memory_bytes / _GIB:.1f} GiB"
        name = owners.get(holder.pid) or holder.name or "?"
        found.append(f"{name} ({holder.pid}){size}")
    return ", ".join(found) or "nobody"
