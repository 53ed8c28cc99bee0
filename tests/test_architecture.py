"""Who may import whom: the order of CONTRIBUTING.md, enforced."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIB = ROOT / "lib" / "gearshift"
ORDER = [
    "errors",
    "schemas",
    "data",
    "settings",
    "logs",
    "providers",
    "rag",
    "gpu",
    "engine",
    "doctor",
    "bench",
    "migrate",
    "notebook",
    "cli",
]
"""Each part imports only what stands before it."""

MODULES = sorted(LIB.rglob("*.py"))
PAGES = sorted((ROOT / "workbench" / "views").glob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def part(module: str) -> str | None:
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "gearshift" and len(pieces) > 1 else None


def part_of_file(path: Path) -> str:
    return path.relative_to(LIB).parts[0].removesuffix(".py")


def test_every_part_has_a_place_in_the_order():
    parts = {part_of_file(path) for path in MODULES} - {"__init__", "__main__", "__pycache__"}
    assert parts == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIB)))
def test_a_part_imports_only_what_stands_before_it(path):
    mine = part_of_file(path)
    if mine == "__init__":
        assert not any(part(name) for name in imported(path))
        return
    for name in imported(path):
        theirs = part(name)
        if theirs in ORDER and theirs != mine:
            assert ORDER.index(theirs) < ORDER.index(mine), f"{mine} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIB)))
def test_the_library_imports_neither_streamlit_nor_vllm(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"streamlit", "vllm"}


@pytest.mark.parametrize("name", ["errors", "schemas"])
def test_errors_and_schemas_import_the_standard_library_alone(name):
    for module in imported(LIB / f"{name}.py"):
        root = module.split(".")[0]
        assert root in sys.stdlib_module_names or root == "gearshift", module


def test_providers_never_import_each_other():
    files = [p for p in (LIB / "providers").glob("*.py") if not p.name.startswith("_")]
    slugs = {f"gearshift.providers.{path.stem}" for path in files}
    for path in files:
        assert not imported(path) & slugs, path.name


def test_pages_never_import_pages():
    slugs = {path.stem for path in PAGES}
    for path in PAGES:
        names = imported(path)
        assert not any(name.split(".")[0] in {"views", *slugs} for name in names), path.name


def test_nothing_shows_unescaped_html():
    for path in (ROOT / "workbench").rglob("*.py"):
        assert "unsafe_allow_html" not in path.read_text("utf-8"), path
