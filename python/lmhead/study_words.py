"""Numbers of a study as a reader wants them."""

from __future__ import annotations

import math


def number(value: float | None, decimals: int) -> str:
    return "—" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def compact(value: float | None) -> str:
    """Three significant digits: 0.008, 12,300, 1.23e15."""
    if value is None:
        return "—"
    if not isinstance(value, (int, float)):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    text = f"{value:.3g}"
    return text.replace("e+", "e").replace("e0", "e")


def decimals_for(size: float) -> int:
    """Digits after the point that show `size` with three significant ones."""
    if not size > 0 or not math.isfinite(size):
        return 4
    return min(8, max(0, 2 - math.floor(math.log10(size))))


def difference(value: float | None, interval: list[float] | None, sign: bool = True) -> str:
    """+0.063 [0.041, 0.086], with digits that suit the interval's width; without `value` the interval alone."""
    if value is None and not interval:
        return "—"
    width = interval[1] - interval[0] if interval else 0
    decimals = decimals_for(width if width > 0 else abs(value or 0))
    text = "" if value is None else f"{value:{'+' if sign else ''}.{decimals}f}"
    if interval:
        text += f"{' ' if text else ''}[{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"
    return text.replace("-", "−")


def p_value(value: float | None) -> str:
    return "—" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if minutes < 60 else f"{hours:.1f} h"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]
