"""Facts that are held in two places say the same in both."""

import re
import tomllib
from pathlib import Path

import pytest

from gearshift.settings import Settings, variable_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VARIABLES = {variable_name(field) for field in Settings.model_fields}


def test_conda_users_get_the_same_packages():
    conda = (ROOT / "environment.yml").read_text("utf-8")
    listed = re.findall(r"^      - (\S+)$", conda, re.MULTILINE)
    extras = PROJECT["project"]["optional-dependencies"]
    assert sorted(listed) == sorted(PROJECT["project"]["dependencies"] + extras["notebooks"])
    python = re.search(r"python (\S+)", conda)
    assert python
    assert python[1] == PROJECT["project"]["requires-python"]


@pytest.mark.parametrize("file", [".env.example", "README.md"])
def test_every_setting_is_documented_and_nothing_else(file):
    text = (ROOT / file).read_text("utf-8")
    pattern = r"^([A-Z][A-Z_]+)=" if file == ".env.example" else r"^\| `([A-Z][A-Z_]+)`"
    assert set(re.findall(pattern, text, re.MULTILINE)) == VARIABLES


def test_the_example_is_what_one_gets_without_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


def test_every_dependency_is_pinned_without_an_address():
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    wanted = PROJECT["project"]["dependencies"]
    wanted = (
        wanted
        + PROJECT["project"]["optional-dependencies"]["notebooks"]
        + [
            item
            for group in PROJECT["dependency-groups"].values()
            for item in group
            if isinstance(item, str)
        ]
    )
    for requirement in wanted:
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() in pinned, requirement


def test_the_wheels_that_carry_weights_are_named_in_errors_as_they_are_pinned():
    weights = (ROOT / "weights.txt").read_text("utf-8").split()
    library = "".join(p.read_text("utf-8") for p in (ROOT / "lib").rglob("*.py"))
    for pin in weights:
        assert pin in library


def test_the_readme_tree_names_files_that_exist():
    readme = (ROOT / "README.md").read_text("utf-8")
    tree = re.search(r"```\ngearshift/.*?\n```", readme, re.DOTALL)
    assert tree
    folders: list[str] = []
    for line in tree[0].splitlines()[2:-1]:
        match = re.match(r"((?:│   |    )*)[├└]── ([^\s]+)", line)
        if not match:
            continue
        depth = len(match[1]) // 4
        folders = [*folders[:depth], match[2].rstrip("/")]
        assert (ROOT / "/".join(folders)).exists(), "/".join(folders)
