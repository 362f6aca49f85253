"""What a study is called and described as stays words in its document."""

import re

import pytest
from lmhead.study.markdown import block, cell, code, fenced, image, table, words
from lmhead.tables import Code

from lmhead.study import figures

HOSTILE = "<script>alert(1)</script> <img src=x> [click](http://evil.example) ![x](y) **bold** _it_ `code` | a\nb &lt; $x$ \x1b[31m"


def shown(markdown):
    """The text that a reader sees of words in which everything active is escaped."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)


def active(markdown):
    """What would still be markup: a sign that opens one with no backslash before it."""
    return re.findall(r"(?<!\\)(?:\\\\)*(?:[`*~$]|<[A-Za-z/!?]|&[#A-Za-z]|\][(\[:]|//|www\.)", markdown)


@pytest.mark.parametrize("write", [words, block, cell])
def test_nothing_of_a_text_becomes_markup_and_nothing_is_lost(write):
    written = write(HOSTILE)
    assert not active(written) and "\n" not in written and "\x1b" not in written
    assert shown(written) == HOSTILE.replace("\n", " ").replace("\x1b", "\\u{1b}")


def test_ordinary_words_stand_as_they_were_written():
    for text in ("G_perp alone, W^T W, 2.2621 -> 2.8873 (arXiv 2603.10145)", "+0.063 [0.041, 0.086] at 2.5 min", "< 0.0001"):
        assert words(text) == text


@pytest.mark.parametrize(
    "text, written",
    [("# head", "\\# head"), ("> quoted", "\\> quoted"), ("- entry", "\\- entry"), ("1. entry", "1\\. entry"), ("head #", "head \\#")],
)
def test_a_paragraph_begins_nothing_else(text, written):
    assert block(text) == written


def test_code_is_fenced_by_more_than_it_holds():
    assert code("a") == "`a`" and code("a`b") == "``a`b``" and code("`") == "`` ` ``"
    assert fenced(["a", "```"])[0] == "````" and fenced(["a"]) == ["```", "a", "```"]


def test_a_cell_never_ends_early():
    head, rule, row = table(["a|b", Code("c|d")], [["x|y", ("z|", Code("|"))]])
    for line in (head, row):
        assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
    assert rule == "|---|---|"


def test_a_plot_s_file_name_is_an_address():
    assert image("x]", "a b)(.svg") == "![x]](a%20b%29%28.svg)"


def test_plots_spell_control_characters_out():
    assert figures.plain("a\x1b$b") == "a\\u{1b}\\$b"
