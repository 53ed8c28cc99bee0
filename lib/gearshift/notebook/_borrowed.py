"""What a notebook uses in place of a person's own: a collection, a `.env`, a variable.

It goes with the notebook. What a kernel that was killed has left goes with the next notebook.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from gearshift.errors import IndexFault
from gearshift.rag import library
from gearshift.rag.index import Collection, collections, remove
from gearshift.settings import ENV_FILE, Settings, load_settings

_OF_A_NOTEBOOK = re.compile(r"(?:env|notebook)-(\d+)-\w+")
"""What we make is named after the process that it goes with."""
_before: dict[Path, Path] = {}
"""Where one was before each folder with a copy of `.env`."""


def own_collection() -> Collection:
    """A new collection, of a name that nobody has; `drop` removes it."""
    made = library.collection(f"notebook-{os.getpid()}-{secrets.token_hex(4)}")
    atexit.register(drop, made)
    return made


def drop(collection: Collection) -> None:
    """Removes a collection of this notebook, and everything in it; may be said twice."""
    library.remove(collection.name)


def borrow_env(settings: Settings) -> Settings:
    """Goes to a folder with a copy of `.env`, if there is one: the real one stays as it is.

    Returns:
        The settings with that folder as the home: what is noted for the way back of a cut-over is
        noted there, and the note on a real one stays.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"env-{os.getpid()}-", dir=settings.home_dir))
    if ENV_FILE.is_file():
        shutil.copy(ENV_FILE, folder)
    _before[folder] = Path.cwd()
    os.chdir(folder)
    borrowed = settings.model_copy(update={"home": folder})
    atexit.register(give_back_env, borrowed)
    return borrowed


def give_back_env(borrowed: Settings) -> None:
    """Goes back to where one was, and removes the copy; may be said twice."""
    before = _before.pop(borrowed.home, None)
    if before is not None:
        with suppress(OSError):
            os.chdir(before)
        shutil.rmtree(borrowed.home, ignore_errors=True)
        load_settings.cache_clear()


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """An environment variable that is set for a while; afterwards it is what it was."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def clear_away(settings: Settings) -> None:
    """Removes what notebooks that are no more have left: copies of keys may be in it."""
    home = settings.home_dir
    for path in home.glob("env-*"):
        if _is_left(path.name):
            shutil.rmtree(path, ignore_errors=True)
    for name in collections(home):
        if _is_left(name):
            with suppress(IndexFault):  # it stays until the disk allows it
                remove(name, home)


def _is_left(name: str) -> bool:
    found = _OF_A_NOTEBOOK.fullmatch(name)
    return found is not None and not psutil.pid_exists(int(found[1]))
