"""The way back from a cut-over: `.env` as it was, to the byte.

It is kept before it is changed. Where somebody has changed it since, only the setting goes back.
"""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

from gearshift.errors import EngineError
from gearshift.providers import LLMServiceFactory
from gearshift.settings import (
    ENV_FILE,
    Settings,
    load_settings,
    replace_file,
    save_setting,
    with_setting,
)

SETTING = "LLM_PROVIDER"


def switch(model: str, previous: str, settings: Settings) -> None:
    """Makes vLLM the default. The record is written first: whatever comes, the way back is known.

    Raises:
        EngineError: the record cannot be written (kind `disk`).
        SettingsError: `.env` cannot be written.
    """
    file = ENV_FILE.absolute()
    last = last_cut_over(settings)
    if last is None or last["taken_back"] or last["file"] != str(file):  # else the first one counts
        try:
            before = file.read_bytes() if file.exists() else None
            after = with_setting(before or b"", SETTING, "vllm")
        except (OSError, UnicodeDecodeError) as problem:
            message = f"{file} cannot be read: {problem}"
            raise EngineError("cutover", message, "make it a readable UTF-8 file") from None
        record = {
            "model": model,
            "made": time.time(),
            "file": str(file),
            "previous": previous,
            "before": _text(before),
            "after": _text(after),
            "taken_back": False,
        }
        _write(settings, record)
    save_setting(SETTING, "vllm")
    LLMServiceFactory.switch("vllm")


def roll_back(settings: Settings) -> dict[str, Any]:
    """Puts the settings back as they were before the last cut-over; may be said twice.

    Returns:
        `active`, `previous` (the same if it was taken back before), `file`, and `exact`: whether
        the file is what it was to the byte, or was changed since, and got its old setting back
        among the new ones.

    Raises:
        EngineError: there was no cut-over, or the file cannot be written (kind `rollback`).
    """
    record = last_cut_over(settings)
    if record is None:
        hint = "to use Ollama: gearshift switch ollama"
        raise EngineError("rollback", "there is no cut-over to take back", hint)
    file = Path(record["file"])
    exact, previous = True, record["previous"]
    if not record["taken_back"]:
        exact = _restore(file, _bytes(record["before"]), _bytes(record["after"]))
        _write(settings, record | {"taken_back": True})
        previous = "vllm"
        load_settings.cache_clear()
        LLMServiceFactory.switch(record["previous"])
    return {
        "active": record["previous"], "previous": previous, "file": str(file), "exact": exact,
    }  # fmt: skip


def last_cut_over(settings: Settings) -> dict[str, Any] | None:
    """What the last cut-over changed, and whether it was taken back."""
    try:
        record = json.loads(_file(settings).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    wanted = {"before", "after", "file", "previous", "taken_back"}
    return record if isinstance(record, dict) and wanted <= set(record) else None


def _restore(file: Path, before: bytes | None, after: bytes | None) -> bool:
    try:
        now = file.read_bytes() if file.exists() else None
        if now == before:
            return True
        if now == after or now is None:
            if before is None:
                file.unlink(missing_ok=True)
            else:
                replace_file(file, before)
            return True
        replace_file(file, _with_old_setting(now, before or b""))
        return False
    except OSError as problem:
        message = f"{file} cannot be written: {problem}"
        raise EngineError("rollback", message, "make it writable, and do it again") from None


def _with_old_setting(now: bytes, before: bytes) -> bytes:
    """The file of now with the lines that the setting had before in place of those it has."""
    ours = re.compile(rb"\s*(export\s+)?" + SETTING.encode() + rb"\s*=", re.IGNORECASE)
    old = [line for line in before.splitlines(keepends=True) if ours.match(line)]
    kept: list[bytes] = []
    for line in now.splitlines(keepends=True):
        if ours.match(line):
            kept += old
            old = []
        else:
            kept.append(line)
    return b"".join(kept)


def _file(settings: Settings) -> Path:
    return settings.home_dir / "migration" / "cutover.json"


def _write(settings: Settings, record: dict[str, Any]) -> None:
    path = _file(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(record, indent=1), "utf-8")
        scratch.chmod(0o600)  # .env may hold keys
        scratch.replace(path)
    except OSError as problem:
        message = f"{path} cannot be written: {problem.strerror}"
        raise EngineError("disk", message, "make room, or set GEARSHIFT_HOME") from None


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
