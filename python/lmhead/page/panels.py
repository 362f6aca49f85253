"""A plot as the page draws it: a panel of lines, each a dictionary of plain numbers.

A line has `arm` (index), `kind` ("seed", "mean", "raw" or "null"), `x`, `y`, `label` (for the pointer) and
`dashed` (the run is not finished). page.js draws them; nothing here knows about colours.
"""

from __future__ import annotations

import math
from typing import Any

POINTS_PER_LINE = 2000

Points = tuple[list[float], list[float]]


def panel(
    identity: str,
    title: str,
    ytitle: str,
    axis: dict[str, Any],
    lines: list[dict[str, Any]],
    thinned: bool = False,
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": identity,
        "title": title,
        "xtitle": axis["xtitle"],
        "ytitle": ytitle,
        "xkind": axis["xkind"],
        "lines": lines,
        "thinned": thinned,
        **more,
    }


def line(arm: int, kind: str, points: Points, label: str, limit: int = POINTS_PER_LINE, dashed: bool = False) -> dict[str, Any]:
    x, y = thin(*points, limit)
    return {
        "arm": arm,
        "kind": kind,
        "x": [rounded(value) for value in x],
        "y": [rounded(value) for value in y],
        "label": label,
        "dashed": dashed,
    }


def thin(x: list[float], y: list[float], limit: int) -> Points:
    """About `limit` points at most: both ends, and each stretch's lowest and highest so that spikes stay."""
    if len(x) <= limit:
        return x, y
    stretch = math.ceil(2 * len(x) / limit)
    kept = {0, len(x) - 1}
    for start in range(0, len(x), stretch):
        places = range(start, min(start + stretch, len(x)))
        finite = [place for place in places if math.isfinite(y[place])]
        if finite:
            kept |= {min(finite, key=y.__getitem__), max(finite, key=y.__getitem__)}
        if len(finite) < len(places):
            kept.add(next(place for place in places if not math.isfinite(y[place])))
    order = sorted(kept)
    return [x[place] for place in order], [y[place] for place in order]


def rounded(value: float) -> float | int | None:
    """Six significant digits, whole numbers whole, None (a gap in the line) for what is not finite."""
    if not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.6g}")
