"""The very weights that Ollama has, as a checkpoint that vLLM serves.

The work is done by transformers in the Python that has vLLM (`_convert_child.py`). Ollama's store
is only read. What is not finished is thrown away; what is finished is never half there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from gearshift.engine import environment as engine
from gearshift.engine.additions import add
from gearshift.engine.gguf_header import read_header
from gearshift.errors import EngineError, ProviderError
from gearshift.migrate import _convert_child
from gearshift.migrate.sides import continue_text, in_ollama
from gearshift.providers import run
from gearshift.providers.ollama import OllamaService
from gearshift.schemas import Message
from gearshift.settings import Settings, environment_for_vllm

_TOOLS = ("gguf==0.19.0", "accelerate==1.15.0")
_REPORT = "gearshift.json"
_UNPACKED = "unpacked.json"
_STAGES = {
    "Converting and de-quantizing": "unpacking the weights",
    "Loading weights": "building the model",
    "Writing model shards": "writing the checkpoint",
}
_PROGRESS = re.compile(rf"({'|'.join(map(re.escape, _STAGES))})[^%]*?(\d+)%")
_SPARE = 1 << 30  # bytes that are to be left on the disk
_FATAL = ("tensors", "vocabulary")
_HUB = "take the repository from the Hub instead: gearshift migrate plan"
_NEAR = 0.5  # of the likeliest token's chance: nearer than that, 4-bit arithmetic may decide


@dataclass(frozen=True)
class Check:
    """Something that was looked at after the conversion; `ok` is `None` where it could not be."""

    name: str
    ok: bool | None
    message: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, what it was made from, and what was checked of it."""

    folder: Path
    identity: dict[str, Any]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return all(check.ok is not False for check in self.checks)


def convert(
    source: Path,
    target: Path,
    settings: Settings,
    on_progress: Callable[[str, float | None], None],
    model: str | None = None,
    template: str | None = None,
) -> Checkpoint:
    """Converts a GGUF file; one that was converted before is returned as it is.

    Args:
        target: A folder that is not there yet, or that an earlier conversion has made.
        on_progress: Told what is done, in words, and how far that is (0 to 1).
        model: What Ollama calls it, to compare with it; `None` for no comparison.
        template: The chat template in Jinja; `None` for the one in the GGUF file.

    Raises:
        EngineError: it cannot be converted (kinds `disk`, `memory`, `weights`, `convert`, `model`,
            `busy`); nothing is left behind then.
    """
    header = read_header(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        message = f"{target.parent} cannot be made: {problem.strerror}"
        raise EngineError("disk", message, "name another folder: --output") from None
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EngineError("busy", f"somebody else is converting into {target}", "wait") from None
    with lock:
        if (done := _done(target, source, template)) is not None:
            return done
        identity = {
            "file": str(source.resolve()), "bytes": source.stat().st_size,
            "sha256": _hash(source), "template": template,
        }  # fmt: skip
        part = target.with_name(f".{target.name}.part")
        try:
            report = _unpacked(part, identity)
            if report is None:
                shutil.rmtree(part, ignore_errors=True)
                _check_room(target.parent, header["num_parameters"])
                part.mkdir()
                report = _run(source, part, template, settings, on_progress)
                unpacked = {"source": identity, "report": report}
                (part / _UNPACKED).write_text(json.dumps(unpacked), "utf-8")
            on_progress("comparing with Ollama" if model else "looking it over", None)
            checks = _checks(report, header, source, model, settings)
            (part / _UNPACKED).unlink()
            if wrong := [c for c in checks if c.name in _FATAL and c.ok is False]:
                message = "; ".join(f"{check.name}: {check.message}" for check in wrong)
                raise EngineError("convert", f"the checkpoint is not the same: {message}", _HUB)
            kept = {"source": identity, "checks": [asdict(check) for check in checks]}
            (part / _REPORT).write_text(json.dumps(kept, indent=1), "utf-8")
            part.replace(target)
        except OSError as problem:
            raise EngineError(
                "disk", f"{target} cannot be written: {problem.strerror}", "make room, or --output"
            ) from None
        finally:
            if not (part / _UNPACKED).exists():  # else only the comparison is left to do
                shutil.rmtree(part, ignore_errors=True)
    return Checkpoint(target, identity, checks)


def _unpacked(part: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The report on weights that were unpacked by a conversion that was stopped after that."""
    try:
        kept = json.loads((part / _UNPACKED).read_text("utf-8"))
        report: dict[str, Any] | None = kept["report"] if kept["source"] == identity else None
        return report
    except (OSError, ValueError, KeyError, TypeError):
        return None


def converted(folder: Path) -> Checkpoint | None:
    """What an earlier conversion has made there; `None` if that is nothing."""
    try:
        kept = json.loads((folder / _REPORT).read_text("utf-8"))
        checks = [Check(**check) for check in kept["checks"]]
        return Checkpoint(folder, kept["source"], checks)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_made_from(done: Checkpoint, source: Path) -> bool:
    """Whether it was made from that file's contents, wherever they lay then."""
    kept, size = done.identity, source.stat().st_size
    if kept.get("bytes") != size:
        return False
    if kept.get("file") == str(source.resolve()):
        return True
    if "sha256" not in kept:  # by an older Gearshift: Ollama names files by their contents
        return Path(str(kept.get("file"))).name == source.resolve().name
    return bool(kept["sha256"] == _hash(source))


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _done(target: Path, source: Path, template: str | None) -> Checkpoint | None:
    """What an earlier conversion of that file has made."""
    if not target.exists():
        return None
    done = converted(target)
    same_template = done is not None and done.identity.get("template") == template
    if done is not None and same_template and is_made_from(done, source):
        return done
    raise EngineError(
        "weights",
        f"{target} is there, and is not made from this file and template",
        "remove it, or name another: --output",
    )


def _check_room(folder: Path, parameters: int) -> None:
    """16 bits a parameter on the disk; in memory the weights twice, while they are unpacked."""
    needed = 2 * parameters
    if (free := shutil.disk_usage(folder).free) < needed + _SPARE:
        raise EngineError(
            "disk",
            f"{needed / 1e9:.1f} GB are needed, and {folder} has {free / 1e9:.1f} GB",
            "make room, or name a folder on a larger disk: --output",
        )
    if (memory := psutil.virtual_memory().available) < 2 * needed:
        raise EngineError(
            "memory",
            f"unpacking needs {2 * needed / 1e9:.1f} GB of memory, {memory / 1e9:.1f} GB are free",
            "end other programs, or take the repository from the Hub: gearshift migrate plan",
        )


def _run(
    source: Path,
    part: Path,
    template: str | None,
    settings: Settings,
    on_progress: Callable[[str, float | None], None],
) -> dict[str, Any]:
    """The child's report; it ends with us."""
    if settings.vllm_python is None and not engine.installed(settings):
        raise EngineError(
            "convert", "the Python that has vLLM does the work, and it is not installed",
            "gearshift engine install",
        )  # fmt: skip
    on_progress("getting ready", None)
    tools = add(settings, "convert", _TOOLS, lambda line: on_progress(line, None))
    given = part.with_name(f"{part.name}.in")
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir()
    (given / "model.gguf").symlink_to(source.resolve())
    if template is not None:
        (given / "chat_template.jinja").write_text(template, "utf-8")
    variables = environment_for_vllm() | {
        "PYTHONPATH": str(tools), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    command = [str(engine.python(settings)), _convert_child.__file__, str(given), str(part)]
    last: deque[str] = deque(maxlen=40)
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # it ends when this does, however that is
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=variables,
            start_new_session=True,
        ) as child:
            try:
                assert child.stdout is not None
                for line in child.stdout:  # universal newlines: a carriage return ends one, too
                    last.append(line.rstrip())
                    if found := _PROGRESS.search(line):
                        on_progress(_STAGES[found[1]], int(found[2]) / 100)
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                raise
    finally:
        shutil.rmtree(given, ignore_errors=True)
    if child.returncode != 0:
        raise _failure(child.returncode, [line for line in last if line.strip()])
    report: dict[str, Any] = json.loads(last[-1])
    return report


def _failure(status: int, lines: list[str]) -> EngineError:
    said = next((line for line in reversed(lines) if re.match(r"\w*(Error|Exception)\b", line)), "")
    if "not supported" in said or "KeyError" in said:
        message = f"transformers cannot unpack this kind of model: {said}"
        return EngineError("convert", message, _HUB)
    if status == -signal.SIGKILL:
        return EngineError(
            "memory", "the conversion was killed, most likely for want of memory", _HUB
        )
    return EngineError("convert", f"the conversion failed: {said or lines[-1:]}", _HUB)


def _checks(
    report: dict[str, Any], header: dict[str, Any], source: Path, model: str | None,
    settings: Settings,
) -> list[Check]:  # fmt: skip
    wanted, found = header["num_parameters"], report["elements"]
    checks = [
        Check("tensors", found == wanted, f"{found:,} numbers, {wanted:,} in the GGUF file"),
        Check(
            "vocabulary",
            report["other_tokens"] == 0,
            "every number means the same token as in the GGUF file"
            if report["other_tokens"] == 0
            else f"{report['other_tokens']:,} numbers mean another token than in the GGUF file",
        ),
        Check(
            "round trip",
            not report["wrong_texts"],
            f"{len(report['counts']) - len(report['wrong_texts'])} of {len(report['counts'])} "
            "texts come back from the tokenizer as they were",
        ),
    ]
    own = "the one in the GGUF file" if report["own_template"] else "translated from Ollama's"
    checks.append(Check("chat template", True, own))
    if model is None:
        return [*checks, Check("first tokens", None, "there is no Ollama model to compare with")]
    try:
        return [*checks, *_against_ollama(report, OllamaService(settings), model)]
    except ProviderError as wrong:
        return [*checks, Check("first tokens", None, f"Ollama was not asked: {wrong.message}")]


def _against_ollama(report: dict[str, Any], service: OllamaService, model: str) -> list[Check]:
    """Ollama tells no probabilities: its likeliest token is looked up among ours."""
    same_count = sum(
        run(continue_text(service, model, text))[1] == count for text, count in report["counts"]
    )
    same, near = 0, 0
    for row in report["first_tokens"]:
        told, _ = run(continue_text(service, model, row["prompt"]))
        chances = dict(row["tokens"])
        likeliest, most = row["tokens"][0]
        same += told == likeliest
        near += chances.get(told, 0.0) >= _NEAR * most
    chats = [
        (run(in_ollama(service, model, [Message(**m) for m in chat])).count, count)
        for chat, count in report["chats"]
    ]
    same_chats = sum(theirs == ours for theirs, ours in chats)
    texts, prompts = len(report["counts"]), len(report["first_tokens"])
    return [
        Check(
            "token counts",
            same_count == texts,
            f"{same_count} of {texts} texts have as many tokens as in Ollama",
        ),
        Check(
            "prompts",
            same_chats == len(chats),
            f"{same_chats} of {len(chats)} chats have as many tokens as in Ollama, by the chat "
            "template of the checkpoint",
        ),
        Check(
            "first tokens",
            near == prompts,
            f"after {same} of {prompts} prompts the likeliest token is Ollama's; after {near} "
            f"Ollama's has at least {_NEAR:.0%} of the likeliest one's chance",
        ),
    ]
