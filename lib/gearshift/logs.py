"""The log: one file in `GEARSHIFT_HOME/logs`, and the console where somebody watches one."""

from __future__ import annotations

import logging
import logging.handlers
import sys

from gearshift.settings import Settings

_OURS = "gearshift"  # the name of our handlers: a program around us may add its own
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(settings: Settings, console: bool) -> None:
    """Sends the log of `gearshift` to a file of at most 2 × 5 MB, and to stderr if `console`.

    Its first line says that the settings are good: they were read before there was a log. Calling
    it again changes nothing. A file that cannot be written is no reason to fail: stderr says so.
    """
    logger = logging.getLogger("gearshift")
    if any(handler.name == _OURS for handler in logger.handlers):
        return
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler()] if console else []
    problem = None
    try:
        folder = settings.home_dir / "logs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                folder / "gearshift.log", maxBytes=5_000_000, backupCount=1, encoding="utf-8"
            )
        )
    except OSError as error:
        problem = error
    for handler in handlers:
        handler.name = _OURS
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    if problem is not None:
        print(f"gearshift: no log file: {problem}", file=sys.stderr)
    settings.log_that_they_are_good()
