"""What a model of Ollama's becomes: its repository, quantization, server and request fields."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearshift.engine.forecast import Question, forecast
from gearshift.engine.gguf_header import read_header
from gearshift.errors import EngineError
from gearshift.gpu import GPU
from gearshift.migrate.chat_template import translate
from gearshift.migrate.convert import Checkpoint, converted, is_made_from
from gearshift.migrate.go_template import TemplateError
from gearshift.migrate.inventory import Item, gguf_of
from gearshift.migrate.mapping import OLLAMA_DEFAULTS, Fate, Where, fates, request_defaults
from gearshift.migrate.repository import Repository, find_repository
from gearshift.migrate.serving import Serving, checkpoint_folder, plain_name, serving
from gearshift.settings import Settings

_BITS = re.compile(r"(?:IQ|Q|F|BF|MXFP|FP)(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Weights:
    """In which form the weights are to be served.

    Attributes:
        now: Ollama's quantization.
        nearest: What comes nearest to it in quality: `awq`, `fp8`, or `None` for 16 bits.
        take: What fits best on these GPUs.
        why: The reason, in words.
    """

    now: str | None
    nearest: str | None
    take: str | None
    why: str

    @property
    def words(self) -> str:
        """What they are and what they become."""
        form = {
            "fp8": "8 bits (fp8, which vLLM makes at its start)",
            "awq": "4 bits (AWQ, which is another repository: look for one on the Hub)",
        }.get(self.take or "", "16 bits")
        return f"{self.now or 'not told'} now, {form} on vLLM: {self.why}"


@dataclass(frozen=True)
class Move:
    """The plan for one model.

    Attributes:
        serving: How it is served from there; `None` where no repository is known.
        command: The `gearshift serve …` for that.
        defaults: The fields that requests have to carry.
        template: The chat template in Jinja for Ollama's prompts; `None` for the model's own.
        template_file: Where the command expects it.
        template_note: Why it is, or is not, a translation.
    """

    item: Item
    repository: Repository
    weights: Weights
    fates: list[Fate]
    serving: Serving | None
    command: list[str] | None
    defaults: dict[str, Any]
    template: str | None
    template_file: Path
    template_note: str


def plan_move(item: Item, settings: Settings, gpus: tuple[GPU, ...] = ()) -> Move:
    """Works out where a model goes; nothing is changed or started."""
    repository = find_repository(item)
    found = fates(item.modelfile, item.context)
    length = next((f.gives for f in found if f.becomes == "--max-model-len"), None)
    weights = _weights(item, repository, length, settings, gpus)
    template, note = translated(item, repository)
    if template is None:
        found = [_without_template(each, note) for each in found]
    file = settings.home_dir / "templates" / f"{plain_name(item.name)}.jinja"
    wanted = None
    if repository.hub is not None:
        wanted = serving(repository.hub, item, found, file if template is not None else None)
        if weights.take == "fp8":  # AWQ is nothing that vLLM could make of 16 bits
            wanted.choices["quantization"] = "fp8"
    command = wanted.command(settings) if wanted else None
    defaults = request_defaults(found)
    return Move(item, repository, weights, found, wanted, command, defaults, template, file, note)


def to_serve(item: Item, settings: Settings) -> Serving:
    """How it is served on this machine: from its converted weights if there are, else from the Hub.

    Raises:
        EngineError: there are neither (kind `weights`).
    """
    folder = checkpoint_folder(item.name, settings)
    if (done := converted(folder)) is not None:
        if not _is_made_from(done, item):
            raise EngineError(
                "weights",
                f"{folder} was made from other weights than {item.name} has now",
                f"remove it, and: gearshift migrate convert {item.name}",
            )
        return serving(str(folder), item, fates(item.modelfile, item.context))
    move = plan_move(item, settings)
    if move.serving is None:
        hint = f"convert the weights that Ollama has: gearshift migrate convert {item.name}"
        raise EngineError("weights", f"{item.name}: {move.repository.doubt}", hint)
    write_template(move)
    return move.serving


def _is_made_from(done: Checkpoint, item: Item) -> bool:
    try:
        return is_made_from(done, gguf_of(item))
    except EngineError:
        return True  # Ollama is elsewhere: nothing speaks against it


def write_template(move: Move) -> None:
    """Puts the chat template where the command expects it.

    Raises:
        EngineError: it cannot be written (kind `disk`).
    """
    if move.template is None:
        return
    try:
        move.template_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        move.template_file.write_text(move.template, "utf-8")
    except OSError as problem:
        message = f"{move.template_file} cannot be written: {problem.strerror}"
        raise EngineError("disk", message, "make room, or set GEARSHIFT_HOME") from None


def translated(item: Item, repository: Repository | None = None) -> tuple[str | None, str]:
    """The chat template that gives Ollama's prompts, and what has to be said of it."""
    file = item.modelfile
    template = file.last("template")
    if template is None:
        return None, "the Modelfile has no TEMPLATE: the model's own is taken"
    begin, doubt = "", ""
    try:
        if not item.no_begin_token:
            shape = (repository or find_repository(item)).shape or {}
            begin = str(shape["begin"] if "begin" in shape else read_header(gguf_of(item))["begin"])
    except EngineError as unknown:
        doubt = f"; whether a begin token comes first is not known ({unknown.message})"
    try:
        found = translate(template, file.last("system"), file.messages, begin)
    except TemplateError as wrong:
        note = f"the TEMPLATE cannot be translated ({wrong}): the model's own is taken, and differs"
        return None, note
    parts = ["TEMPLATE", *(["SYSTEM"] if file.last("system") else [])]
    parts += ["MESSAGE"] if file.messages else []
    return found, f"translated from {' and '.join(parts)}; tools are left out{doubt}"


def _without_template(each: Fate, note: str) -> Fate:
    """What becomes of a line where the model's own chat template is taken."""
    if each.parameter == "TEMPLATE":
        return replace(each, becomes=None, where=Where.NOWHERE, note=note)
    if each.parameter not in ("SYSTEM", "MESSAGE"):
        return each
    role, _, text = each.value.partition(": ")
    if each.parameter == "SYSTEM":
        role, text = "system", each.value
    note = "requests have to begin with it: the model's own template does not have it"
    gives = {"role": role, "content": text}
    return replace(each, becomes="messages", where=Where.REQUEST, gives=gives, note=note)


def _weights(
    item: Item,
    repository: Repository,
    length: int | None,
    settings: Settings,
    gpus: tuple[GPU, ...],
) -> Weights:
    bits = _BITS.search(item.quantization or "")
    size = int(bits[1]) if bits else None
    nearest = None if size is None or size >= 16 else "awq" if size <= 4 else "fp8"
    now = item.quantization
    if repository.hub is None:
        return Weights(now, nearest, None, "what fits is not known without a repository")
    if not gpus:
        near = f"; nearest to what it is now would be {nearest}" if nearest else ""
        return Weights(now, nearest, None, f"no GPU was found to ask what fits{near}")
    better = [None, "fp8", "awq"]
    for method in better:
        asked = Question(repository.hub, gpus=len(gpus), max_model_len=length, quantization=method)
        try:
            fits = forecast(asked, settings, gpus).fit.fits
        except EngineError as wrong:
            return Weights(now, nearest, None, wrong.message)
        if fits is None:
            return Weights(now, nearest, None, "whether it fits on these GPUs is not known")
        if fits:
            form = f"in {method}" if method else "in 16 bits"
            return Weights(now, nearest, method, f"the best that fits here: {form}")
    return Weights(now, nearest, None, "it fits on these GPUs in no form")


def document(move: Move) -> str:
    """The plan as Markdown, for a person to review."""
    item, repository, weights = move.item, move.repository, move.weights
    lines = [f"# {item.name}: from Ollama to vLLM", ""]
    if item.modelfile.error:
        return "\n".join([*lines, f"Ollama rejects this Modelfile: {item.modelfile.error}.", ""])
    lines += [f"- Repository: {repository.hub or 'not known'}"]
    if repository.doubt:
        lines += [f"- **Doubt**: {repository.doubt}"]
    if repository.others:
        lines += [f"- It could also be: {', '.join(repository.others)}"]
    lines += [f"- Weights: {weights.words}", f"- Chat template: {move.template_note}", ""]
    if move.command:
        lines += ["```bash", shlex.join(move.command), "```", ""]
    lines += ["## What becomes of each line", ""]
    lines += ["| line | value | becomes | note |", "|---|---|---|---|"]
    for each in move.fates:
        goal = each.becomes or "nothing"
        gives = "" if each.gives is None else f" = {each.gives}"
        cells = (each.parameter, _short(each.value), f"{goal}{gives}", each.note)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    if not move.fates:
        lines.append("| (the Modelfile sets nothing) | | | |")
    shown = json.dumps(move.defaults, ensure_ascii=False, indent=2)
    lines += ["", "## What answers are sampled with", "", "```json", shown, "```", ""]
    if move.command:
        lines += [
            "The command makes these the server's defaults, but for `stop` and `seed`, which only "
            "requests can carry.",
            "",
        ]
    set_here = {each.becomes for each in move.fates}
    left = [name for name in OLLAMA_DEFAULTS if name not in set_here]
    if left:
        lines += [
            f"The Modelfile leaves {', '.join(left)} to Ollama; so these are Ollama 0.9's.",
            "",
        ]
    return "\n".join(lines)


def _short(text: str, most: int = 60) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else one_line[: most - 1] + "…"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<")
