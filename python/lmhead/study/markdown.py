"""Markdown as GitHub reads it, in which words of a study stay words: nothing in them becomes markup.

Only what would be active is escaped, so that ordinary words stand in the document as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from lmhead.formats import visible
from lmhead.tables import Code, Words

ACTIVE = re.compile(
    r"\\(?=[!-/:-@\[-`{-~])"  # a backslash that would escape what follows
    r"|[`*~$|@]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # inside a word it is no emphasis
    r"|<(?=[A-Za-z/!?])"
    r"|&(?=[#A-Za-z])"
    r"|\](?=[(\[:])"  # of a link or a definition; alone brackets are brackets
    r"|/(?=/)|(?<=www)\."  # addresses that would become links
)


def words(text: object) -> str:
    """`text` on one line, as words inside a paragraph or a cell."""
    return ACTIVE.sub(lambda found: "\\" + found[0], visible(text).replace("\n", " "))


def block(text: object) -> str:
    """`text` as the words that a paragraph, heading or entry of a list begins with."""
    escaped = re.sub(r"^(\d+(?=[.)])|(?=[#>+=-]))", r"\1\\", words(text).strip())  # of a list, a quotation, a heading
    return re.sub(r"(?<!\\)#(?=#*$)", r"\\#", escaped)


def code(text: object) -> str:
    """`text` set as code, in a fence longer than any in it."""
    inside = visible(text).replace("\n", " ")
    fence = "`" * (longest_run(inside) + 1)
    space = " " if inside.startswith("`") or inside.endswith("`") else ""
    return f"{fence}{space}{inside}{space}{fence}"


def longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def inline(content: Words) -> str:
    parts = content if isinstance(content, tuple) else (content,)
    return "".join(code(part.text) if isinstance(part, Code) else words(part) for part in parts)


def cell(content: Words) -> str:
    """As `inline`; a bar ends a cell even inside code."""
    return re.sub(r"(?<!\\)\|", r"\|", inline(content))


def table(head: Sequence[Words], rows: Sequence[Sequence[Words]]) -> list[str]:
    """Lines of a table."""

    def line(cells: Sequence[Words]) -> str:
        return "| " + " | ".join(map(cell, cells)) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def fenced(lines: Sequence[str]) -> list[str]:
    text = visible("\n".join(lines))
    fence = "`" * max(3, longest_run(text) + 1)
    return [fence, *text.split("\n"), fence]


def image(alternative: str, file: str) -> str:
    return f"![{words(alternative)}]({quote(visible(file))})"
