"""How arms are named on a page where there is little room."""

from __future__ import annotations

import html
import re
from typing import Any

from lmhead.formats import one_line, shortened

LABEL_LENGTH = 18  # letters up to which an arm is named at the end of its line


def plotly_text(value: Any) -> str:
    """`value` for a Plotly text, which reads entities and some tags; on one line."""
    return html.escape(one_line(str(value).replace("\n", " ")), quote=False)


def plotted_names(names: list[str]) -> list[dict[str, str]]:
    """The arms as page.js names them: beside the pointer, and at the ends of lines."""
    labels = zip(names, short_labels(names), strict=True)
    return [{"name": plotly_text(shortened(name, 60)), "label": plotly_text(label)} for name, label in labels]


def key_names(names: list[str]) -> list[dict[str, str]]:
    """The arms as the key names them."""
    return [{"whole": name, "shortened": shortened(name, 48)} for name in names]


def short_labels(names: list[str]) -> list[str]:
    """Names for the ends of lines, cut where long, in the first way that keeps every two arms apart."""
    # A key's last part is enough: head.rank=4 is rank=4.
    without_path = [re.sub(r"(^|[\s,;])[\w.]*\.(?=\w+=)", r"\1", name) for name in names]
    words = [re.findall(r"[^\s,;/]+[\s,;/]*", name) for name in without_path]
    common = set.intersection(*(set(parts) for parts in words)) if len(names) > 1 else set()
    without_common = ["".join(part for part in parts if part not in common).strip(" ,;/") for parts in words]
    candidates = [[shortened(name, LABEL_LENGTH) for name in without_common], without_common, without_path]
    if max(map(len, without_path)) <= LABEL_LENGTH:
        candidates.insert(0, without_path)
    distinct = (labels for labels in candidates if all(labels) and len(set(labels)) == len(labels))
    return next(distinct, names)
