"""Runs the notebooks and writes what they show into them: `python scripts/run_notebooks.py [NN …]`.

They share a home, `build/notebooks`; `.engine` is their vLLM, but 04, which installs one, gets a
home of its own. A real Ollama is taken where `OLLAMA_TEST_URL` names one. What changes with the
machine is not kept: paths, times of execution, the state of widgets (what they show is, as HTML).
"""

import base64
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
HOME = ROOT / "build" / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
INSTALLS_VLLM = "04"


def main(*wanted: str) -> None:
    if url := os.environ.pop("OLLAMA_TEST_URL", None):  # else the doctor would show it as a slip
        os.environ["OLLAMA_BASE_URL"] = url
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not wanted or path.name.startswith(wanted):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="nb") as folder:
                run(path, Path(folder))
            print(f"{path.name}: {time.monotonic() - began:.0f} s", flush=True)


def run(path: Path, folder: Path) -> None:
    home = HOME
    os.environ["GEARSHIFT_VLLM_PYTHON"] = str(ROOT / ".engine" / "engine" / "bin" / "python")
    if path.name.startswith(INSTALLS_VLLM):
        home = folder / "home"
        del os.environ["GEARSHIFT_VLLM_PYTHON"]
    os.environ["GEARSHIFT_HOME"] = str(home)
    notebook = nbformat.read(path, as_version=4)
    work = folder / path.stem
    work.mkdir()
    client = NotebookClient(
        notebook,
        timeout=900,
        record_timing=False,
        store_widget_state=False,
        config=Config(KernelManager={"transport_encryption": "auto"}),
        resources={"metadata": {"path": str(work)}},
    )
    client.execute()
    places = {
        str(home): "~/.gearshift",
        str(ROOT / ".engine"): "~/.gearshift",
        str(work): ".",
        str(ROOT): "~/gearshift",
        str(Path.home()): "~",
    }
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02}"
        if cell.cell_type == "code":
            cell.outputs = [plain(output, places) for output in joined(cell.outputs)]
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": notebook.metadata.language_info,  # else opening it is a change
            "gearshift": {"ran": digest(notebook)},
        }
    )
    nbformat.write(notebook, path)


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of all code: outputs belong to it as long as it stays the same."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Pieces of one stream as one output."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = found[-1] if found else None
        if last and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            found.append(output)
    return found


def plain(output: nbformat.NotebookNode, places: dict[str, str]) -> nbformat.NotebookNode:
    """An output without what is this machine's alone."""

    def without(text: str) -> str:
        for place, name in places.items():
            text = re.sub(rf"{re.escape(place)}(?![\w-])", name, text)
        return text

    if output.output_type == "stream":
        output.text = without(output.text)
    for kind, value in list(output.get("data", {}).items()):
        if kind == WIDGET:
            del output["data"][kind]
        elif kind == "image/png":
            output["data"][kind] = smaller(value)
        elif isinstance(value, str):
            output["data"][kind] = without(value)
    return output


def smaller(picture: str) -> str:
    """A chart with the colors that it needs: a tenth of the size."""
    image, file = Image.open(io.BytesIO(base64.b64decode(picture))), io.BytesIO()
    image.convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])
