"""What came of an evaluation, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmhead.formats import ABSENT, difference, fixed, one_line

ORDER = ("acc", "acc_norm", "exact_match", "perplexity", "bits_per_byte")
FINDINGS = {"harm": "worse", "gain": "better", "no_harm": "no worse by the margin", "undecided": "undecided"}


def in_order(known: Iterable[str]) -> list[str]:
    """Names of figures, the usual ones first, then those that are left as they come."""
    names = list(dict.fromkeys(known))
    return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


def shown_figures(result: dict[str, Any]) -> dict[str, list[str]]:
    """The figures of each task that a table has, the usual ones first."""
    shown = {}
    for task in result["tasks"]:
        known = {name for model in result["models"] for name in model["figures"][task]} - {"gold_log_likelihood"}
        shown[task] = in_order(sorted(known))
    return shown


def table(result: dict[str, Any]) -> str:
    """A row a task and figure, a column a model, with 95 % intervals over documents; then what differs."""
    models = result["models"]
    rows = [["task", "documents", "figure", *(one_line(model["model"]) for model in models)]]
    for task, names in shown_figures(result).items():
        for place, name in enumerate(names):
            about = [task, str(result["tasks"][task]["documents"])] if place == 0 else ["", ""]
            rows.append([*about, name, *(cell(model["figures"][task].get(name)) for model in models)])
    for place, name in enumerate(name for name in ORDER if any(name in model["average"] for model in models)):
        about = [f"average of {len(result['tasks'])} tasks", ""] if place == 0 else ["", ""]
        rows.append([*about, name, *(cell(model["average"].get(name)) for model in models)])
    lines = aligned(rows)
    if result["comparisons"]:
        lines += ["", f"difference from {one_line(models[0]['model'])}, by document, Holm's correction over all:"]
        lines += aligned([
            [row["model"], row["task"], row["figure"], difference(row["difference"], row["interval"]),
             FINDINGS[row["finding"]]]
            for row in result["comparisons"]
        ])
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ABSENT
    if not figure["interval"]:
        return fixed(figure["value"])
    low, high = figure["interval"]
    return f"{fixed(figure['value'])} [{fixed(low)}, {fixed(high)}]"


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
