"""Numbers, durations and names as a reader wants them, the same on pages, in documents and on a terminal."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

ABSENT = "—"


def fixed(value: float | None, decimals: int = 4, sign: bool = False) -> str:
    """`value` with so many decimals, thousands apart and a true minus sign; ABSENT where there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{value:{'+' if sign else ''},.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("+-")


def compact(value: Any) -> str:
    """Three significant digits: 0.008, 12,300, 1.23e15. What is no number is its own text."""
    if value is None:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    text = f"{value:.3g}"
    return text.replace("e+", "e").replace("e0", "e")


def si(value: float | None, digits: int = 3) -> str:
    """`value` with an SI prefix: 1234567 is "1.23 M", unbreakable; ABSENT where there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{float(f'{value / factor:.{digits}g}'):g}\u00a0{prefix}"
    return f"{float(f'{value:.{digits}g}'):g}"


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    return f"{share * 100:.2f}\u00a0%"


def difference(value: float | None, interval: list[float] | None, sign: bool = True) -> str:
    """+0.063 [0.041, 0.086], with digits that suit the interval's width; without `value` the interval alone."""
    if value is None and not interval:
        return ABSENT
    width = interval[1] - interval[0] if interval else 0
    decimals = decimals_for(width if width > 0 else abs(value or 0))
    text = "" if value is None else f"{value:{'+' if sign else ''}.{decimals}f}"
    if interval:
        text += f"{' ' if text else ''}[{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"
    return text.replace("-", "−")


def decimals_for(size: float) -> int:
    """Digits after the point that show `size` with three significant ones."""
    if not size > 0 or not math.isfinite(size):
        return 4
    return min(8, max(0, 2 - math.floor(math.log10(size))))


def p_value(value: float | None) -> str:
    return ABSENT if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def shortened(name: str, length: int) -> str:
    """`name` with its middle left out where it is longer than `length`: arms often differ at their ends."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return name[:head] + "…" + name[-(length - 1 - head) :]


def visible(value: Any) -> str:
    """`value` as text in which control, direction and unpaired characters are spelled out."""
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn") or character == "\n"
        else f"\\u{{{ord(character):x}}}"
        for character in str(value)
    )


def one_line(value: Any) -> str:
    """`value` as a line for a terminal: visible, and a line break spelled out too."""
    return visible(value).replace("\n", "\\n")
