"""Escapes what came from a run's files for the place it goes to, and shortens names to what fits there."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from lmhead.formats import shortened, visible

LABEL_LENGTH = 18  # letters up to which an arm is named at the end of its line
MARKERS = (
    "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1-5 0Z",
    "M-4.5-4.5H4.5V4.5H-4.5Z",
    "M0-6 6 0 0 6-6 0Z",
    "M0-5.5 6 5H-6Z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M0-6.5 1.6-2.2 6.2-2 2.6.9 3.8 5.3 0 2.8-3.8 5.3-2.6.9-6.2-2-1.6-2.2Z",
    "M0 5.5-6-5H6Z",
    "M-5.5-3-3-5.5 0-2.5 3-5.5 5.5-3 2.5 0 5.5 3 3 5.5 0 2.5-3 5.5-5.5 3-2.5 0Z",
)


def text(value: Any) -> str:
    """`value` for HTML text or a quoted attribute."""
    return html.escape(visible(value), quote=True)


def plotly_text(value: Any) -> str:
    """`value` for a Plotly text, which reads entities and some tags; on one line."""
    return html.escape(visible(value).replace("\n", " "), quote=False)


def script_json(value: Any) -> str:
    """JSON for a script element: no character in it can end the element or open a comment."""
    encoded = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return encoded.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def pretty(value: Any) -> str:
    return text(json.dumps(value, indent=2, ensure_ascii=False))


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


def swatch(index: int) -> str:
    marker = MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]
    return (
        f'<svg class="swatch" viewBox="-15 -6 30 12" style="color:var(--arm-{index % 8})" aria-hidden="true">'
        f'<line x1="-15" x2="15"/><path d="{marker}"/></svg>'
    )
