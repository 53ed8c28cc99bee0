"""Reads the templates of Go's `text/template`, as far as Ollama's models use them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field


class TemplateError(ValueError):
    """A template that is wrong, or uses what is not known here."""


@dataclass(frozen=True)
class Literal:
    """A text, a number, `true`, `false` or `nil`."""

    value: str | float | bool | None


@dataclass(frozen=True)
class Path:
    """`.A.B`, `$.A`, `$name.A`: `root` is `.`, `$` or the variable's name."""

    root: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """A function with its arguments."""

    name: str
    arguments: tuple[Expression, ...]


Expression = Literal | Path | Call


@dataclass(frozen=True)
class Text:
    """What stands between actions."""

    text: str


@dataclass(frozen=True)
class Output:
    """`{{ expression }}`"""

    value: Expression


@dataclass(frozen=True)
class Assign:
    """`{{ $name := expression }}`; with `=` the variable is there already."""

    name: str
    value: Expression
    declares: bool


@dataclass
class Branch:
    """`if`, `with` or `range`, and their `else`; `names` are the variables of a range."""

    kind: str
    condition: Expression
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Jump:
    """`break` or `continue`."""

    kind: str


Node = Text | Output | Assign | Branch | Jump

_ACTION = re.compile(
    r'\{\{(?P<left>-(?=[ \t\r\n]))?(?P<inside>(?:"(?:\\.|[^"\\\n])*"|`[^`]*`|[^"`])*?)'
    r"(?P<right>(?<=[ \t\r\n])-)?\}\}"
)
_COMMENT = re.compile(r"\{\{(?P<left>- *)?/\*.*?\*/(?P<right> *-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<char>\'(?:\\.|[^\'\\])\')'
    r"|(?P<number>[+-]?\d[\w.]*)|(?P<path>\$\w*(?:\.\w+)*|(?:\.\w+)+|\.)"
    r"|(?P<word>\w+)|(?P<sign>:=|=|\||\(|\)|,))"
)
_SPACE = " \t\r\n"
_CONSTANTS = {"true": True, "false": False, "nil": None}


def parse(source: str) -> list[Node]:
    """The nodes of a template.

    Raises:
        TemplateError: it is not well formed, or defines templates of its own.
    """
    return _Parser(source).parse()


def names_in(nodes: list[Node]) -> set[str]:
    """Every field that a template uses, in lower case."""
    return {name.lower() for path in _paths(nodes) for name in path.names}


def _paths(nodes: list[Node]) -> Iterator[Path]:
    for node in nodes:
        if isinstance(node, (Output, Assign)):
            yield from _inside(node.value)
        elif isinstance(node, Branch):
            yield from _inside(node.condition)
            yield from _paths(node.body)
            yield from _paths(node.otherwise)


def _inside(value: Expression) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Call):
        for argument in value.arguments:
            yield from _inside(argument)


class _Parser:
    def __init__(self, source: str) -> None:
        self._pieces = list(_split(source))
        self._at = 0
        self._ranges = 0  # that we are in

    def parse(self) -> list[Node]:
        nodes, end = self._list()
        if end:
            raise TemplateError(f"{end!r} without a beginning")
        return nodes

    def _list(self) -> tuple[list[Node], str]:
        """Nodes up to an `end` or `else`, and what that says; empty at the end of the source."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            text, action = self._pieces[self._at]
            self._at += 1
            if text is not None:
                if text:
                    nodes.append(Text(text))
                continue
            assert action is not None
            word = action.split(None, 1)[0] if action else ""
            if word in ("end", "else"):
                return nodes, action
            if word in ("if", "with", "range"):
                nodes.append(self._branch(word, action[len(word) :]))
            elif word in ("break", "continue"):
                if not self._ranges or action != word:
                    raise TemplateError(f"{action!r} outside of a range")
                nodes.append(Jump(word))
            elif word in ("define", "template", "block"):
                raise TemplateError(f"{word!r} is not known here")
            else:
                nodes.append(_simple(action))
        return nodes, ""

    def _branch(self, kind: str, rest: str) -> Branch:
        names, condition = _range(rest) if kind == "range" else ((), _pipeline(rest))
        branch = Branch(kind, condition, names=names)
        self._ranges += kind == "range"
        branch.body, end = self._list()
        self._ranges -= kind == "range"
        if end.startswith("else"):
            more = end[4:].strip()
            if more:
                word = more.split(None, 1)[0]
                if word not in ("if", "with"):
                    raise TemplateError(f"{end!r} is no else")
                branch.otherwise = [self._branch(word, more[len(word) :])]
                return branch
            branch.otherwise, end = self._list()
        if end != "end":
            raise TemplateError(f"{kind!r} is not ended")
        return branch


def _split(source: str) -> Iterator[tuple[str | None, str | None]]:
    """Texts and actions in turn, the blanks that actions trim already gone."""
    at, trim = 0, False
    while True:
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        if trim:
            text = text.lstrip(_SPACE)
        if start < 0:
            yield text, None
            return
        comment = _COMMENT.match(source, start)
        found = comment or _ACTION.match(source, start)
        if found is None:
            raise TemplateError(f"an action is not closed: {source[start : start + 40]!r}")
        yield text.rstrip(_SPACE) if found["left"] else text, None
        if comment is None:
            yield None, found["inside"].strip(_SPACE)
        at, trim = found.end(), bool(found["right"])


def _simple(action: str) -> Node:
    declaration = re.match(r"\$(\w+)\s*(:?=)(?!=)", action)
    if declaration:
        value = _pipeline(action[declaration.end() :])
        return Assign(declaration[1], value, declaration[2] == ":=")
    return Output(_pipeline(action))


def _range(rest: str) -> tuple[tuple[str, ...], Expression]:
    declaration = re.match(r"\s*((?:\$\w+\s*,\s*)?\$\w+)\s*:=", rest)
    if not declaration:
        return (), _pipeline(rest)
    names = tuple(name.strip().removeprefix("$") for name in declaration[1].split(","))
    return names, _pipeline(rest[declaration.end() :])


def _pipeline(source: str) -> Expression:
    tokens = list(_tokens(source))
    value, rest = _commands(tokens)
    if rest:
        raise TemplateError(f"{rest[0][1]!r} is not expected in {source.strip()!r}")
    return value


def _tokens(source: str) -> Iterator[tuple[str, str]]:
    at, end = 0, len(source.rstrip())
    while at < end:
        found = _TOKEN.match(source, at)
        if found is None or found.lastgroup is None:
            raise TemplateError(f"{source[at:].strip()!r} is not understood")
        yield found.lastgroup, found[found.lastgroup]
        at = found.end()


def _commands(tokens: list[tuple[str, str]]) -> tuple[Expression, list[tuple[str, str]]]:
    """Commands with `|` between them: the value of one is the last argument of the next."""
    value, rest = _command(tokens, None)
    while rest and rest[0][1] == "|":
        value, rest = _command(rest[1:], value)
    return value, rest


def _command(
    tokens: list[tuple[str, str]], piped: Expression | None
) -> tuple[Expression, list[tuple[str, str]]]:
    if not tokens:
        raise TemplateError("a value is missing")
    kind, text = tokens[0]
    is_call = kind == "word" and text not in _CONSTANTS
    if is_call:
        tokens = tokens[1:]
    operands: list[Expression] = []
    while tokens and tokens[0][1] not in ("|", ")"):
        operand, tokens = _operand(tokens)
        operands.append(operand)
    if is_call:
        return Call(text, (*operands, piped) if piped is not None else tuple(operands)), tokens
    if len(operands) != 1 or piped is not None:
        raise TemplateError(f"{text!r} is no function")
    return operands[0], tokens


def _operand(tokens: list[tuple[str, str]]) -> tuple[Expression, list[tuple[str, str]]]:
    (kind, text), rest = tokens[0], tokens[1:]
    if text == "(":
        value, rest = _commands(rest)
        if not rest or rest[0][1] != ")":
            raise TemplateError("a parenthesis is not closed")
        if len(rest) > 1 and rest[1][0] == "path" and rest[1][1].startswith("."):
            raise TemplateError("a field of a parenthesis is not known here")
        return value, rest[1:]
    if kind == "text":
        return Literal(_unquoted(text)), rest
    if kind == "number":
        try:
            return Literal(int(text, 0) if re.fullmatch(r"[+-]?\d+", text) else float(text)), rest
        except ValueError:
            raise TemplateError(f"{text!r} is no number") from None
    if kind == "path":
        root = text[: text.index(".")] if text.startswith("$") and "." in text else text
        if text.startswith("."):
            return Path(".", tuple(name for name in text.split(".") if name)), rest
        names = tuple(text[len(root) :].split(".")[1:])
        return Path(root.removeprefix("$") or "$", names), rest
    if kind == "word":
        if text in _CONSTANTS:
            return Literal(_CONSTANTS[text]), rest
        return Call(text, ()), rest
    raise TemplateError(f"{text!r} is not expected")


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    escapes = _ESCAPE.findall(text)
    if any(not _PLAIN_ESCAPE.fullmatch(escape) for escape in escapes):
        raise TemplateError(f"{text} has an escape that is not known here")
    try:
        value: str = ast.literal_eval(text)  # Go's escapes of ASCII and of `\\u` are Python's
    except (ValueError, SyntaxError):
        raise TemplateError(f"{text} is no text") from None
    return value


_ESCAPE = re.compile(r"\\(?:x..?|[0-7]{1,3}|u.{0,4}|U.{0,8}|.)")
_PLAIN_ESCAPE = re.compile(
    r"\\(?:[abfnrtv\\\"]|x[0-7][0-9a-fA-F]|[01][0-7]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
)
