"""What came of an evaluation, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmhead.formats import ABSENT, count, difference, fixed, one_line

ORDER = ("acc", "acc_norm", "exact_match", "perplexity", "bits_per_byte", "gold_log_likelihood")
FINDINGS = {"harm": "worse", "gain": "better", "no_harm": "no worse by the margin", "undecided": "undecided"}


def in_order(known: Iterable[str]) -> list[str]:
    """Names of figures, the usual ones first, then those that are left as they come."""
    names = list(dict.fromkeys(known))
    return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


def shown_figures(result: dict[str, Any]) -> dict[str, list[str]]:
    """The figures of each task and group that a table has, the usual ones first."""
    shown = {}
    for name in in_groups(result):
        known = {figure for model in result["models"] for figure in model["figures"][name]}
        shown[name] = in_order(sorted(known))
    return shown


def in_groups(result: dict[str, Any]) -> list[str]:
    """What is averaged over, each group before the groups and tasks that it is made of."""
    names: dict[str, None] = {}
    for name in result["averaged"]:
        names[name] = None
        parts = result["groups"].get(name, {})
        for inner, tasks in result["groups"].items():
            if inner != name and tasks.keys() <= parts.keys():
                names[inner] = None
        for task in parts:
            names[task] = None
    return list(names)


def row_label(result: dict[str, Any], name: str) -> str:
    """Parts of a group stand behind a dot."""
    return name if name in result["averaged"] else f"· {name}"


def documents_of(result: dict[str, Any], name: str) -> int:
    return sum(result["tasks"][task]["documents"] for task in result["groups"].get(name, {name: 1.0}))


def table(result: dict[str, Any]) -> str:
    """A row a task and figure, a column a model, with 95 % intervals over documents; then what differs."""
    models = result["models"]
    rows = [["task", "documents", "figure", *(one_line(model["model"]) for model in models)]]
    for task, names in shown_figures(result).items():
        for place, name in enumerate(names):
            about = [row_label(result, task), str(documents_of(result, task))] if place == 0 else ["", ""]
            rows.append([*about, name, *(cell(model["figures"][task].get(name)) for model in models)])
    for place, name in enumerate(name for name in ORDER if any(name in model["average"] for model in models)):
        about = [f"average of {len(result['averaged'])} tasks", ""] if place == 0 else ["", ""]
        rows.append([*about, name, *(cell(model["average"].get(name)) for model in models)])
    lines = [*aligned(rows), *cuts(result)]
    if result["comparisons"]:
        lines += ["", f"difference from {one_line(models[0]['model'])}, by document, Holm's correction over all:"]
        lines += aligned([
            [row["model"], row["task"], row["figure"], difference(row["difference"], row["interval"]),
             FINDINGS[row["finding"]]]
            for row in result["comparisons"]
        ])
    return "\n".join(lines) + "\n"


def cuts(result: dict[str, Any]) -> list[str]:
    """What was too long for a model, a sentence a model."""
    return [
        f"{model['cut']:,} of {count(model['requests'], 'request')} to {one_line(model['model'])} lost their beginning: longer than its "
        f"{model['description']['max_length']:,} tokens"
        for model in result["models"]
        if model["cut"]
    ]


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
