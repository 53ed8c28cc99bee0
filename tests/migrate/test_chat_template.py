"""A template of Ollama's, translated, gives the prompts that a real Ollama made of it."""

import json
from pathlib import Path

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gearshift.migrate.chat_template import translate
from gearshift.migrate.go_template import TemplateError

RECORDED = json.loads(Path(__file__).with_name("prompts.json").read_text("utf-8"))
"""Templates, chats, and the prompts that Ollama 0.9.3 sent to the model."""


def rendered(template, chat):
    """As transformers renders a chat template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    return environment.from_string(template).render(messages=chat, add_generation_prompt=True)


@pytest.mark.parametrize("row", RECORDED["templates"], ids=lambda row: row["name"])
def test_the_translation_gives_ollamas_prompts(row):
    messages = [tuple(pair) for pair in row["messages"]]
    translated = translate(row["template"], row["system"], messages)
    found = [rendered(translated, chat) for chat in RECORDED["chats"]]
    assert found == row["prompts"]


def test_texts_are_put_together_by_printf():
    found = translate('{{ printf "<%s> %v" .System .Prompt }}', system="S")
    assert rendered(found, [{"role": "user", "content": "a"}]) == "<S> a"


def test_the_begin_token_comes_first():
    assert (
        rendered(translate("{{ .Prompt }}", begin="<s>"), [{"role": "user", "content": "a"}])
        == "<s>a"
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ if .Prompt }}", "not ended"),
        ("{{ end }}", "without a beginning"),
        ("{{ .Prompt", "not closed"),
        ("{{ range .Messages }}{{ .Role.Name }}{{ end }}", "not known here"),
        ("{{ json .Messages }}", "'json'"),
        ("{{ .prompt }}", "not a text is printed"),
        ("{{ .Messages }}", "not a text is printed"),
        ("{{ range .Messages }}{{ .content }}{{ end }}", "'content' of a message"),
        ("{{ range .Messages }}{{ . }}{{ end }}", "not a text is printed"),
        ("{{ .Tools }}{{ .Prompt }}", "not a text is printed"),
        ("{{ eq .Prompt .System }}", "not a text is printed"),
        ("{{ if eq .Prompt 1 }}{{ end }}", "eq of text and number"),
        ("{{ len .Prompt }}", "no list"),
        ("{{ range 3 }}{{ end }}", "no list of messages"),
        ("{{ range .Prompt }}{{ end }}", "no list of messages"),
        ("{{ range slice .Messages 2 }}{{ end }}", "out of range"),
        ("{{ 1.5 }}", "not a text is printed"),
        ("{{ break }}", "outside of a range"),
        (r'{{ "\xc3\xa9" }}', "escape"),
        (r"""{{ "\'" }}""", "escape"),
        ('{{ printf "%d" .Prompt }}', "format"),
        ('{{ define "x" }}{{ end }}', "define"),
        ("{{ $x }}", "not declared"),
        ("{{ .Prompt }} {{ | }}", "no function"),
    ],
)
def test_what_cannot_be_translated_is_said(template, why):
    with pytest.raises(TemplateError, match=why):
        translate(template)
