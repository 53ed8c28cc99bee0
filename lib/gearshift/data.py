"""Where the files of `data/` are: beside the library in a checkout, inside it in a wheel."""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "data"
DATA = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "data"
"""The folder of the sample corpus, presets and the model map."""
