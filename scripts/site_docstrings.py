"""For mkdocstrings: turns the roles of reStructuredText in docstrings into Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([^`]+)`")
MATH = re.compile(r":math:`([^`]+)`")
BLOCK = re.compile(r"^( *)\.\. math:: *(\S.*(?:\n\1 +\S.*)*)$", re.M)


def as_markdown(text: str) -> str:
    """Formulae become code, since a page that asks nothing of a network has nothing to set them with; names become code too."""

    def block(match: re.Match[str]) -> str:
        lines = [line.strip() for line in match[2].splitlines() if line.strip()]
        return "\n".join([match[1] + "```text", *(match[1] + line for line in lines), match[1] + "```"])

    text = BLOCK.sub(block, text)
    return MATH.sub(r"`\1`", ROLE.sub(r"`\1`", text))


class Roles(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
