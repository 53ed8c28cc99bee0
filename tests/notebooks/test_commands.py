"""What the notebooks, the handbook and the README tell people to type is what there is."""

import re
import shlex
from itertools import pairwise

import nbformat
import pytest
import typer.main

from gearshift import notebook
from gearshift.bench import parse_goals
from gearshift.bench.scenarios import SCENARIOS
from gearshift.bench.tuning import Aim, space
from gearshift.cli import app
from gearshift.doctor.checks import system
from gearshift.engine.cards import find_card
from gearshift.engine.fit import Setup, utilization
from gearshift.engine.profiles import PROFILES
from gearshift.providers import _fallback, _llama_server
from gearshift.rag import citations
from gearshift.settings import PROVIDERS
from places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*sorted((ROOT / "data" / "handbook").glob("*.md")), *NOTEBOOKS, ROOT / "README.md"]
COMMANDS = typer.main.get_command(app)
_SPAN = re.compile(r"`(gearshift [^`\n]+)`")
_LINE = re.compile(r"(?m)^(?:\.venv/bin/)?(gearshift [^\n#|]+)")


def goals(text):
    parse_goals(text)
    return True


VALUES = {
    "--scenario": SCENARIOS.__contains__,
    "--profile": lambda name: name in PROFILES or name.startswith("tuned-") or name.isupper(),
    "--provider": lambda name: name in PROVIDERS or name.isupper(),
    "--slo": goals,
}
"""Whether a value of an option is one."""


def words(path):
    """The text of a page: of a notebook its words and its commands."""
    if path.suffix == ".md":
        return path.read_text("utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "markdown" or "%%bash" in c.source)


def typed(text):
    """Every command of ours in a text."""
    return [*_SPAN.findall(text), *_LINE.findall(text)]


def problem(command):
    """What is wrong with a command; `None` if it exists, with these options."""
    parts = shlex.split(re.sub(r"[…\[\]]", "", command).replace("'", ""))[1:]
    here = COMMANDS
    while (commands := getattr(here, "commands", None)) and parts and parts[0][0] != "-":
        found = commands.get(parts[0].strip("`,."))
        if found is None:
            return f"no command {parts[0]}"
        here, parts = found, parts[1:]
    known = {name for option in here.params for name in [*option.opts, *option.secondary_opts]}
    given = {part.partition("=")[0] for part in parts if re.match(r"--?[a-z]", part)}
    if given - known - {"--help"}:
        return f"no option {sorted(given - known)}"
    joined = [part.partition("=")[::2] for part in parts if "=" in part]
    for option, value in [*pairwise(parts), *joined]:
        if option in VALUES and not VALUES[option](value.strip("`,.")):
            return f"{option} cannot be {value}"
    return None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_that_people_are_told_exists(path):
    wrong = {command: why for command in typed(words(path)) if (why := problem(command))}
    assert wrong == {}


def test_commands_are_found_and_wrong_ones_are_seen():
    assert sum(len(typed(words(path))) for path in PAGES) > 60
    assert problem("gearshift serve MODEL 2 2 --gpus 1,3 --dry-run") is None
    assert problem("gearshift migrate plan --document plan.md") is None
    assert problem("gearshift engine instal") == "no command instal"
    assert problem("gearshift plan MODEL --graphics-card L4") == "no option ['--graphics-card']"
    assert problem("gearshift bench --scenario many") is None
    assert problem("gearshift bench --scenario few") == "--scenario cannot be few"
    assert problem("gearshift serve M --profile=quick") == "--profile cannot be quick"


def test_functions_of_the_notebooks_that_exercises_name_exist():
    told = {name for path in NOTEBOOKS for name in re.findall(r"notebook\.(\w+)", words(path))}
    assert told - {*notebook.__all__} == set()
    assert len(told) > 3


def test_numbers_that_notebooks_tell_are_those_of_the_code():
    text = " ".join("\n".join(map(words, NOTEBOOKS)).split())
    for told in (
        f"left alone for {_fallback.Breaker.COOL_DOWN:g} seconds",
        f"from {citations.THRESHOLD:g} on it counts as supported",
        f"{_SMALL[Aim.starts]} starts and {_SMALL[Aim.rounds]} rounds of proof",
        f"A processor takes {space._CPU_SEQUENCES} at once",
        f"the embedded model answers {_SMALL[_llama_server._SLOTS]} at a time",
    ):
        assert told in text, told


_SMALL = {2: "two", 5: "five", 12: "twelve"}


def test_the_pythons_that_are_told_are_those_that_the_doctor_advises():
    first, beyond = sorted(map(int, re.findall(r"3\.(\d+)", str(system._ADVISED))))
    told = f"Python 3.{first} to 3.{beyond - 1}"
    second = next(path for path in NOTEBOOKS if path.name.startswith("02"))
    for page in (second, ROOT / "data" / "handbook" / "04-installing-vllm.md"):
        assert told in words(page)


def test_the_profiles_are_those_of_the_handbooks_table():
    page = (ROOT / "data" / "handbook" / "08-tuning.md").read_text("utf-8")
    rows = re.findall(
        r"(?m)^\| `--([a-z-]+)` \| ([\d.]+)(?: to ([\d.]+))? \| ([\d.]+) to ([\d.]+)", page
    )
    assert len(rows) == 3
    for option, *numbers in rows:
        name = option.replace("-", "_").removeprefix("gpu_")
        few, few_to, many, many_to = (float(number or numbers[0]) for number in numbers)
        assert few <= PROFILES["latency"].values[name] <= few_to
        assert many <= PROFILES["throughput"].values[name] <= many_to


def test_the_default_share_of_memory_is_the_one_that_is_told():
    page = (ROOT / "data" / "handbook" / "07-starting-vllm.md").read_text("utf-8")
    told = re.search(r"share of GPU memory, by default (0\.\d+)", page)
    assert float(told[1]) == utilization(Setup(find_card("L4").usable_gib))
