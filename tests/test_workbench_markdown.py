"""Text that a model or a document wrote keeps its form and loses its power."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gearshift.schemas import Answer, Citation, CitedBy, State, Timings
from places import ROOT

sys.path.insert(0, str(ROOT / "workbench"))

from parts.markdown import cited, plain, safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**bold** and *thin*", "**bold** and *thin*"),
        ("![x](http://a/b.png)", "!\\[x\\](http://a/b.png)"),
        ("[x](javascript:alert(1))", "\\[x\\](javascript:alert(1))"),
        ("<script>", "\\<script\\>"),
        ("costs $5 and $6", "costs \\$5 and \\$6"),
        ("`a[1] <b>`", "`a[1] <b>`"),
        ("`a | b <c>` or `d`", "`a | b <c>` or `d`"),
        ("|x|\n|-|\n|`a | b` `[c]`|", "|x|\n|-|\n|\\`a | b\\` `[c]`|"),
        ("a ` b [c]", "a \\` b \\[c\\]"),
        ("```py\nx[1] = '<b>'\n```", "```py\nx[1] = '<b>'\n```"),
        ("```py\nx[1]", "```py\nx[1]"),
        ("\\[x](y)", "\\[x\\](y)"),
        ("- a\n  ```\n![x](http://a/b)", "- a\n  \\`\\`\\`\n!\\[x\\](http://a/b)"),
        ("``` `` ` ``\n![x](y)", "\\`\\`\\` `` ` ``\n!\\[x\\](y)"),
        ("```\nx\r```\r![x](y)", "```\nx\n```\n!\\[x\\](y)"),
        ("~~~ a b\n![x](y)", "\\~\\~\\~ a b\n!\\[x\\](y)"),
        ("~~~\n[a]\n~~~\n[b]", "~~~\n[a]\n~~~\n\\[b\\]"),
    ],
)
def test_safe(text, shown):
    assert safe(text) == shown


PARTS = [
    *("![x](http://a/b)", "[x](http://a)", "<img src=http://a>", "<http://a>", "[r]: http://a"),
    *("![r]", "[r]", "`", "``", "```", "~~~", "~", "\n", "\n\n", "\r", " ", "    ", "\t", "- "),
    *("> ", "1. ", "\\", "|", "a", "*", "_", "#", "&lt;", "&#91;", "!", "[", "]", "(", ")", "<"),
]


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join))
def test_nothing_that_is_safe_loads_or_links_anything(text):
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    shown = parser.render(safe(text))
    assert "<img" not in shown
    assert "<a " not in shown


def test_a_name_has_no_meaning_at_all():
    assert plain("a*b_[x](y)\n# z") == "a\\*b\\_\\[x\\]\\(y\\) \\# z"


def test_citations_are_links_to_what_they_cite_or_say_that_they_are_not():
    text = "By the model [1]. Matched. Neither [9]. Alone."
    answer = Answer("?", Timings(0.0), state=State.DONE, text=text)
    answer.citations = [
        Citation(1, "a", CitedBy.MODEL, 0, 17),
        Citation(2, "b", CitedBy.MATCH, 18, 26, 0.9),
        Citation(9, None, CitedBy.MODEL, 27, 39),
    ]
    answer.unsupported = [(40, 46)]
    assert cited(answer, {1, 2}) == (
        "By the model [\\[1\\]](#source-1). Matched. [≈2](#source-2) "
        "Neither :red-badge[9 points nowhere]. Alone. :gray-badge[no source]"
    )
