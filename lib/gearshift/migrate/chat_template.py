"""A template of Ollama's as a chat template in Jinja that gives the same prompt.

What Ollama does around its template is part of the translation: it puts SYSTEM and MESSAGE in
front, joins messages of the same role, and gives older templates one turn at a time. Tools, images
and thoughts are not translated: the prompt is that of a chat without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from gearshift.migrate.go_template import (
    Assign,
    Branch,
    Call,
    Expression,
    Jump,
    Literal,
    Node,
    Output,
    Path,
    TemplateError,
    Text,
    names_in,
    parse,
)

DEFAULT = "{{ .Prompt }}"
"""What Ollama takes for a model that has no template."""

_NEVER = {
    "Tools", "ToolCalls", "ToolCallID", "ToolName", "Images", "Thinking", "Think", "IsThinkSet",
    "ThinkLevel", "Suffix", "Query", "Document", "Instruction",
}  # fmt: skip
"""Fields that are empty in a chat of texts."""
_EMPTY_TEXTS = {"Thinking", "ToolName", "ToolCallID"}
"""Those of a message that are printed as nothing; others as `[]` or `<no value>`."""
_FIELDS = {"Role": "role", "Content": "content"}
_COMPARISONS = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

_FALSE = "false"


def translate(
    template: str | None,
    system: str | None = None,
    messages: list[tuple[str, str]] | None = None,
    begin: str = "",
) -> str:
    """The chat template in Jinja.

    Args:
        template: Ollama's; `None` for the one that it takes by default.
        system: The Modelfile's SYSTEM.
        messages: Its MESSAGEs: roles and texts.
        begin: The token that Ollama puts in front of every prompt, if the model wants one.

    Raises:
        TemplateError: it is wrong, or uses what cannot be translated.
    """
    nodes = parse(template if template is not None else DEFAULT)
    names = names_in(nodes)
    lines = [_gather(system, messages or [])]
    if begin:
        lines.append(f"{{{{- {_quoted(begin)} }}}}")
    if "messages" in names:
        lines.append(_Translator(_ROOT).nodes(nodes))
        return "\n".join(lines) + "\n"
    if "response" not in names:
        nodes = [*nodes, Output(Path(".", ("Response",)))]
    whole = _Translator(_TURN).nodes(nodes)
    last = _Translator(_TURN).nodes(_up_to_response(nodes)[0])
    lines += [
        f"{{%- macro turn(System, Prompt, Response) -%}}\n{whole}\n{{%- endmacro -%}}",
        f"{{%- macro last_turn(System, Prompt, Response) -%}}\n{last}\n{{%- endmacro -%}}",
        _TURNS,
    ]
    return "\n".join(lines) + "\n"


_ROOT = {"Messages": "all.messages", "System": "all.system", "Response": "''"}
_TURN = {"System": "System", "Prompt": "Prompt", "Response": "Response"}

_TURNS = """\
{%- set now = namespace(system='', prompt='', response='') -%}
{%- for message in all.messages -%}
  {%- if (message.role == 'system' and (now.prompt or now.response))
      or (message.role == 'user' and now.response) -%}
    {{- turn(now.system, now.prompt, now.response) -}}
    {%- set now.system = '' -%}{%- set now.prompt = '' -%}{%- set now.response = '' -%}
  {%- endif -%}
  {%- if message.role == 'system' -%}{%- set now.system = message.content -%}
  {%- elif message.role == 'user' -%}{%- set now.prompt = message.content -%}
  {%- elif message.role == 'assistant' -%}{%- set now.response = message.content -%}
  {%- endif -%}
{%- endfor -%}
{{- last_turn(now.system, now.prompt, now.response) -}}"""


def _gather(system: str | None, messages: list[tuple[str, str]]) -> str:
    """The messages as Ollama's templates see them: SYSTEM in front, same roles joined."""
    before = ", ".join(
        f"{{'role': {_quoted(role)}, 'content': {_quoted(text)}}}" for role, text in messages
    )
    lines = [f"{{%- set given = [{before}] + messages -%}}"]
    if system:
        first = f"{{'role': 'system', 'content': {_quoted(system)}}}"
        lines += [
            "{%- if not messages or messages[0].role != 'system' -%}",
            f"  {{%- set given = [{first}] + given -%}}",
            "{%- endif -%}",
        ]
    lines.append(_COLLATE)
    return "\n".join(lines)


_COLLATE = """\
{%- set all = namespace(messages=[], system='', systems=0) -%}
{%- for message in given -%}
  {%- if message.role == 'system' -%}
    {%- set all.system = message.content if all.systems == 0
        else all.system + '\\n\\n' + message.content -%}
    {%- set all.systems = all.systems + 1 -%}
  {%- endif -%}
  {%- if all.messages and all.messages[-1].role == message.role and message.role != 'tool' -%}
    {%- set joined = all.messages[-1].content + '\\n\\n' + message.content -%}
    {%- set all.messages = all.messages[:-1] + [{'role': message.role, 'content': joined}] -%}
  {%- else -%}
    {%- set all.messages = all.messages + [{'role': message.role, 'content': message.content}] -%}
  {%- endif -%}
{%- endfor -%}"""


def _up_to_response(nodes: list[Node], cut: bool = False) -> tuple[list[Node], bool]:
    """What Ollama leaves of a template for the turn to be answered: all up to `.Response`.

    That stays: it is what an answer begins with that is to be continued.
    """
    kept: list[Node] = []
    for node in nodes:
        if cut:
            continue
        if isinstance(node, Branch):
            body, cut = _up_to_response(node.body, cut)
            otherwise, cut = _up_to_response(node.otherwise, cut)
            kept.append(replace(node, body=body, otherwise=otherwise))
        else:
            kept.append(node)
            cut = isinstance(node, Output) and "response" in names_in([node])
    return kept, cut


def _quoted(text: str) -> str:
    """A text in Jinja."""
    body = text.replace("\\", "\\\\").replace("'", "\\'")
    body = body.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f"'{body}'"


class _Translator:
    """From nodes to Jinja.

    Args:
        root: What the fields of the root are called in Jinja.

    Where Go and Jinja differ (what a list or a boolean looks like, the length of a text, which
    values can be compared), it is refused.
    """

    def __init__(self, root: dict[str, str]) -> None:
        self._root = root
        self._dot: str | None = None  # what `.` is; the root at first
        self._variables: dict[str, str] = {}
        self._kinds: dict[str, str] = {}  # of what is in Jinja's variables
        self._numbers = count(1)

    def nodes(self, nodes: list[Node]) -> str:
        return "".join(self._node(node) for node in nodes)

    def _node(self, node: Node) -> str:
        if isinstance(node, Text):
            return f"{{{{- {_quoted(node.text)} -}}}}\n"
        if isinstance(node, Output):
            return self._output(node.value)
        if isinstance(node, Jump):
            return f"{{%- {node.kind} -%}}\n"
        if isinstance(node, Assign):
            return self._assign(node)
        return self._range(node) if node.kind == "range" else self._branch(node)

    def _output(self, value: Expression) -> str:
        found = self._value(value)
        if found == _FALSE and isinstance(value, Path) and value.names[-1] in _EMPTY_TEXTS:
            return ""
        kind = self._kind(value)
        if found == _FALSE or kind in ("list", "bool", "message", "float"):
            raise TemplateError(f"what is not a text is printed ({kind or 'an empty field'})")
        return "" if found == "''" else f"{{{{- {found} -}}}}\n"

    def _kind(self, value: Expression) -> str | None:
        """What an expression is, as far as that is known."""
        if isinstance(value, Literal):
            kinds = {str: "text", bool: "bool", int: "number", float: "float"}
            return kinds.get(type(value.value))
        if isinstance(value, Path):
            found = self._path(value)
            if found == "all.messages":
                return "list"
            if found in self._kinds:
                return self._kinds[found]
            return "text" if value.names and found != _FALSE else None
        if value.name in ("eq", "not", *_COMPARISONS):
            return "bool"
        if value.name in ("and", "or"):
            kinds_of = {self._kind(each) for each in value.arguments}
            return kinds_of.pop() if len(kinds_of) == 1 else None
        fixed = {"len": "number", "slice": "list", "index": "message", "currentDate": "text"}
        return fixed.get(value.name)

    def _assign(self, node: Assign) -> str:
        value = self._value(node.value)
        if not node.declares:
            if node.name not in self._variables:
                raise TemplateError(f"${node.name} is not declared")
            return f"{{%- set {self._variables[node.name]} = {value} -%}}\n"
        name = f"v{next(self._numbers)}"
        if kind := self._kind(node.value):
            self._kinds[f"{name}.value"] = kind
        self._variables = self._variables | {node.name: f"{name}.value"}
        return f"{{%- set {name} = namespace(value={value}) -%}}\n"

    def _branch(self, node: Branch) -> str:
        condition = self._value(node.condition)
        outer = self._dot, self._variables
        if condition == _FALSE:
            found = self.nodes(node.otherwise)
        else:
            if node.kind == "with":
                self._dot = condition
            body = self.nodes(node.body)
            self._dot, self._variables = outer
            found = f"{{%- if {condition} -%}}\n{body}"
            if node.otherwise:
                found += f"{{%- else -%}}\n{self.nodes(node.otherwise)}"
            found += "{%- endif -%}\n"
        self._dot, self._variables = outer
        return found

    def _range(self, node: Branch) -> str:
        over = self._value(node.condition)
        if over != _FALSE and self._kind(node.condition) != "list":
            raise TemplateError("a range over what is no list of messages")
        outer = self._dot, self._variables
        if over == _FALSE:
            found = self.nodes(node.otherwise)
            self._dot, self._variables = outer
            return found
        number = next(self._numbers)
        each, at = f"each{number}", f"at{number}"
        values = (at, each) if len(node.names) == 2 else (each,)
        names = dict(zip(node.names, values, strict=False))
        self._kinds |= {each: "message", at: "number"}
        self._dot, self._variables = each, self._variables | names
        body = self.nodes(node.body)
        self._dot, self._variables = outer
        found = f"{{%- for {each} in {over} -%}}\n{{%- set {at} = loop.index0 -%}}\n{body}"
        if node.otherwise:
            found += f"{{%- else -%}}\n{self.nodes(node.otherwise)}"
        self._dot, self._variables = outer
        return found + "{%- endfor -%}\n"

    def _value(self, value: Expression) -> str:
        if isinstance(value, Literal):
            if isinstance(value.value, str):
                return _quoted(value.value)
            if value.value is None or isinstance(value.value, bool):
                return "true" if value.value else _FALSE
            return str(value.value)
        if isinstance(value, Path):
            return self._path(value)
        self._check(value)
        return self._call(value.name, [self._value(argument) for argument in value.arguments])

    def _check(self, call: Call) -> None:
        """Refuses what Go refuses, or does otherwise than Jinja."""
        kinds = [self._kind(each) for each in call.arguments]
        if call.name in ("len", "slice", "index") and kinds[:1] not in (["list"], [None]):
            raise TemplateError(f"{call.name} of what is no list")
        if call.name in ("slice", "index"):
            most = 1 if call.name == "slice" else 0
            for each in call.arguments[1:]:
                if isinstance(each, Literal) and not (
                    type(each.value) is int and 0 <= each.value <= most
                ):
                    raise TemplateError(f"{call.name} may be out of range")
        if call.name in ("eq", *_COMPARISONS) and len({kind for kind in kinds if kind}) > 1:
            raise TemplateError(f"{call.name} of {' and '.join(map(str, kinds))}")

    def _path(self, path: Path) -> str:
        names = list(path.names)
        if any(name in _NEVER for name in names):
            return _FALSE
        if path.root not in (".", "$"):
            if path.root not in self._variables:
                raise TemplateError(f"${path.root} is not declared")
            return self._fields(self._variables[path.root], names)
        if path.root == "$" or self._dot is None:
            if len(names) != 1:
                raise TemplateError(f"{'.'.join(path.names) or '.'} of the root is not known here")
            return self._root.get(names[0], _FALSE)  # as in Go, where one that is not there is
        return self._fields(self._dot, names)

    @staticmethod
    def _fields(value: str, names: list[str]) -> str:
        for name in names:
            if name not in _FIELDS:
                raise TemplateError(f"the field {name!r} of a message is not known here")
            value = f"{value}.{_FIELDS[name]}"
        return value

    def _call(self, name: str, values: list[str]) -> str:
        if name == "eq" and len(values) >= 2:
            return _either(f"({values[0]} == {other})" for other in values[1:])
        if name in _COMPARISONS and len(values) == 2:
            return f"({values[0]} {_COMPARISONS[name]} {values[1]})"
        if name == "and" and values:
            return _FALSE if _FALSE in values else f"({' and '.join(values)})"
        if name == "or" and values:
            return _either(value for value in values if value != _FALSE)
        if name == "not" and len(values) == 1:
            return "true" if values[0] == _FALSE else f"(not {values[0]})"
        if name == "len" and len(values) == 1:
            return "0" if values[0] == _FALSE else f"({values[0]} | length)"
        if name == "slice" and 1 <= len(values) <= 3:
            return f"{values[0]}[{':'.join(values[1:]) + ':' * (len(values) == 2)}]"
        if name == "index" and len(values) == 2:
            return f"{values[0]}[{values[1]}]"
        if name == "print" and len(values) == 1:
            return values[0]
        if name == "printf" and values:
            return _formatted(values[0], values[1:])
        if name == "currentDate" and not values:
            return "strftime_now('%Y-%m-%d')"
        raise TemplateError(f"the function {name!r} with {len(values)} values is not known here")


def _formatted(pattern: str, values: list[str]) -> str:
    """`printf` of texts alone."""
    pieces = re.split(r"%[sv]", pattern[1:-1])
    if not pattern.startswith("'") or len(pieces) != len(values) + 1 or "%" in "".join(pieces):
        raise TemplateError(f"the format {pattern} is not known here")
    parts = [f"'{pieces[0]}'"]
    for value, piece in zip(values, pieces[1:], strict=True):
        parts += [value, f"'{piece}'"]
    return f"({' ~ '.join(part for part in parts if part != chr(39) * 2)})"


def _either(values: Iterable[str]) -> str:
    kept = list(values)
    return f"({' or '.join(kept)})" if kept else _FALSE
