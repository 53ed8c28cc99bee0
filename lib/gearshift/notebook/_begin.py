"""The first cell of a notebook, and the cells that fail on purpose."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import altair as alt
import pandas as pd

from gearshift import __version__, logs
from gearshift.errors import GearshiftError
from gearshift.notebook._borrowed import clear_away
from gearshift.notebook._show import text
from gearshift.providers import LLMServiceFactory
from gearshift.settings import ENV_FILE, Settings, load_settings

_TOP = (".git", "pyproject.toml")
"""What the topmost folder of a project has; a `.env` above it is somebody else's."""


def begin() -> Settings:
    """Makes a notebook ready, wherever it was opened, and returns the settings.

    The working directory becomes the next folder upwards with a `.env`, if there is one within the
    project, so that notebooks and the workbench have the same settings. `gearshift` is found in
    `%%bash` cells. Charts are pictures: they are seen without being run, and without the internet.

    Raises:
        SettingsError: a setting is wrong.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ENV_FILE).is_file():
            os.chdir(folder)
            break
        if any((folder / name).exists() for name in _TOP):
            break
    LLMServiceFactory.reset()
    settings = load_settings()
    logs.configure(settings, console=False)
    clear_away(settings)
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    os.environ.pop("FORCE_COLOR", None)  # by the kernel: commands would write for a terminal
    os.environ["COLUMNS"] = "110"
    alt.renderers.enable("png", scale_factor=1.5)
    pd.set_option("display.max_colwidth", None, "display.width", 120)
    print(f"Gearshift {__version__}, provider {settings.llm_provider}, state in {settings.home}")
    return settings


@contextmanager
def on_purpose(kind: type[GearshiftError] = GearshiftError) -> Iterator[None]:
    """Shows the error that is wanted, with what to do next; if none comes, that is an error."""
    try:
        yield
    except kind as error:
        text(f"{type(error).__name__}: {error.message}\nnext: {error.hint}")
    else:
        raise AssertionError(f"{kind.__name__} was expected, and nothing went wrong")
