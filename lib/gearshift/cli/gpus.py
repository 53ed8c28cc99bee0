"""`gearshift gpus`: what the GPUs do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gearshift import gpu
from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.engine import host, servers
from gearshift.engine.monitor import Machine, machine_of
from gearshift.engine.words import card_details, gib, hardware_lines, part_of
from gearshift.settings import load_settings

app = typer.Typer()

_PERIOD = 0.5  # seconds; also what the processor's load is measured over


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
        looks = _looks()
        now = next(looks)
        if as_json:
            owners = _owners()
            facts = asdict(now.gpus) | {"gpus": [_row(card, owners) for card in now.gpus.gpus]}
            links = [asdict(link) for link in gpu.links()]
            print_json(facts | {"links": links, "machine": machine_row(now)})
        elif not watch:
            out.print(_shown(now))
            for link in gpu.links():
                out.print(f"GPU {link.first} and {link.second}: {link.kind}", markup=False)
        elif out.is_terminal:
            with Live(_shown(now), console=out, auto_refresh=False) as live:
                for now in looks:
                    live.update(_shown(now), refresh=True)
        else:  # into a pipe or a file: each look as it comes
            out.print(_shown(now))
            for now in looks:
                out.print(_shown(now))


def _looks() -> Iterator[Machine]:
    """The hardware, again and again."""
    before = host.look()
    while True:
        time.sleep(_PERIOD)
        now = host.look()
        yield machine_of(gpu.look(), before, now)
        before = now


def machine_row(machine: Machine) -> dict[str, Any]:
    """Processor and memory as `--json` shows them."""
    return {
        "processor_percent": machine.processor_percent,
        "memory_used_bytes": machine.memory_used_bytes,
        "memory_total_bytes": machine.memory_total_bytes,
    }


def _owners() -> dict[int, str]:
    """Which of our servers a process belongs to."""
    return servers.owners(servers.status(load_settings()))


def _shown(machine: Machine) -> RenderableType:
    found = machine.gpus
    processor = [Text(hardware_lines(machine)[-1])] if machine.processor_matters else []
    if not found.gpus:
        problem = found.problem or "the driver knows of no GPU"
        return Group(Text(problem + (f" ({found.hint})" if found.hint else "")), *processor)
    owners = _owners()
    table = Table("GPU", "name", "memory", "load", "temperature", "power", "who holds the memory")
    below = []
    for card in found.gpus:
        cells = (
            str(card.index),
            card.name or "?",
            part_of(card.memory_used_bytes, card.memory_total_bytes),
            _with_unit(card.utilization_percent, " %"),
            _with_unit(card.temperature_c, " °C"),
            _with_unit(card.power_watts, " W"),
            card.problem or _holders(card, owners),
        )
        table.add_row(*map(Text, cells))  # a process may call itself anything, markup too
        below += [Text(f"GPU {card.index}: {line}") for line in (*card_details(card), *card.notes)]
    versions = f"driver {found.driver or '?'}, CUDA {found.cuda or '?'}"
    return Group(table, Text(versions), *below, *processor)


def _with_unit(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f}{unit}"


def _holders(card: gpu.GPU, owners: dict[int, str]) -> str:
    if card.holders is None:
        return "?"
    found = []
    for holder in card.holders:
        name = owners.get(holder.pid) or holder.name or "?"
        found.append(f"{name} ({holder.pid}) {gib(holder.memory_bytes)}")
    return ", ".join(found) or "nobody"
