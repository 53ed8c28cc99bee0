"""What people are told to type for vLLM itself is what its own parser takes."""

import re
import shlex

import nbformat

from places import ROOT

PAGES = [*sorted((ROOT / "data" / "handbook").glob("*.md")), ROOT / "README.md"]
_SERVE = re.compile(r"(?m)(?:^|`)(?:[A-Z_]+=\S+ )*vllm serve ([^`\n|#>]+)")


def texts():
    for path in PAGES:
        yield path.read_text("utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def told():
    """The arguments after each `vllm serve`; not of those that only begin to name some."""
    found = (match for text in texts() for match in _SERVE.findall(text.replace("\\\n", " ")))
    return [shlex.split(one) for one in found if "…" not in one]


def test_vllm_takes_every_command_for_it_that_people_are_told(vllm_parses):
    commands = told()
    assert len(commands) > 1
    assert all(found["port"] > 0 for found in vllm_parses(commands))


def test_the_options_that_notebooks_turn_are_vllms(vllm_parses):
    (path,) = (ROOT / "notebooks").glob("06_*.ipynb")
    table = nbformat.read(path, as_version=4).cells[2].source
    options = re.findall(r"(?m)^\| `(--[a-z-]+)` \|", table)
    assert len(options) == 4
    values = {"--gpu-memory-utilization": "0.5"}
    (found,) = vllm_parses([["m", *(f"{name}={values.get(name, '64')}" for name in options)]])
    assert found["max_num_seqs"] == found["max_num_batched_tokens"] == 64
