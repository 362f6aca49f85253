"""What an evaluation's page is made of: scores by task and model, plots along the models, differences."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from lmhead.evaluate.figures import GOLD
from lmhead.evaluate.table import FINDINGS, cell, cuts, in_order, row_label, shown_figures
from lmhead.formats import count, difference, fixed, shortened
from lmhead.page import document
from lmhead.page.labels import key_names, plotly_text, plotted_names
from lmhead.page.panels import line, panel
from lmhead.tables import Cell, Code, Table, Words, make_table

TITLES = {
    "acc": "Accuracy",
    "acc_norm": "Accuracy, normalised by length",
    "exact_match": "Exact match",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte of the right answer",
}


def render(result: dict[str, Any]) -> str:
    """The page of what `lmhead evaluate --json` writes."""
    models = [model["model"] for model in result["models"]]
    curves = curve_names(result)
    panels = [drawn for drawn in (panel_of(result, name) for name in figures_of(result) if name != GOLD) if drawn]
    return document.render(
        "evaluate/evaluation.html",
        {"arms": plotted_names(curves), "panels": panels},
        title=f"{title_of(models)} – lmhead evaluation",
        kind="lmhead evaluation",
        name=title_of(models),
        facts=facts(result),
        description="",
        sentences=sentences(result),
        scores=scores(result),
        differences=differences(result),
        tasks=tasks(result),
        names=key_names(curves),
        sections=[{"title": "Along the models", "note": note(result), "panels": panels}] if panels else [],
    )


def labels(result: dict[str, Any]) -> list[str]:
    """How models are named in tables: by the last part of their paths, where that keeps them apart."""
    whole = [model["model"] for model in result["models"]]
    last = [PurePath(name).name or name for name in whole]
    return [shortened(name, 48) for name in (last if len(set(last)) == len(last) else whole)]


def title_of(models: list[str]) -> str:
    first = shortened(PurePath(models[0]).name or models[0], 40)
    return first if len(models) == 1 else f"{first} and {count(len(models) - 1, 'other')}"


def facts(result: dict[str, Any]) -> list[str]:
    limit = result["limit"]
    return [
        count(len(result["models"]), "model"),
        count(len(result["tasks"]), "task"),
        "all documents" if limit is None else f"the first {count(limit, 'document')} of each",
        f"{result['precision']} products",
        f"lm-evaluation-harness {result['lm_eval']}",
    ]


def sentences(result: dict[str, Any]) -> list[str]:
    models = result["models"]
    of_first = [models[0]["average"], *(models[0]["figures"][name] for name in result["averaged"])]
    average = next((figures["bits_per_byte"] for figures in of_first if "bits_per_byte" in figures), None)
    found = []
    if len(models) > 1:
        by_finding = {words: sum(row["finding"] == finding for row in result["comparisons"]) for finding, words in FINDINGS.items()}
        told = ", ".join(f"{number} {words}" for words, number in by_finding.items() if number)
        found.append(f"Of {count(len(result['comparisons']), 'difference')} from {labels(result)[0]}: {told}.")
    if average:
        found.append(f"{labels(result)[0]} spends {cell(average)} bits per byte of the right answers.")
    found += [f"{sentence}." for sentence in cuts(result)]
    return found or ["Scores by task; intervals are over documents."]


def figures_of(result: dict[str, Any]) -> list[str]:
    """The figures that any task has, the usual ones first."""
    return in_order(name for names in shown_figures(result).values() for name in names)


def scores(result: dict[str, Any]) -> Table:
    """A row a task and figure, a column a model."""
    models = result["models"]
    rows: list[list[Cell | Words]] = []
    for task, names in shown_figures(result).items():
        rows += [
            [row_label(result, task) if place == 0 else "", Code(name), *(cell(model["figures"][task].get(name)) for model in models)]
            for place, name in enumerate(names)
        ]
    averaged = [name for name in figures_of(result) if any(name in model["average"] for model in models)]
    strong = set(range(len(rows), len(rows) + len(averaged)))
    rows += [
        [f"average of {count(len(result['averaged']), 'task')}" if place == 0 else "", Code(name), *(cell(model["average"].get(name)) for model in models)]
        for place, name in enumerate(averaged)
    ]
    made = make_table("scores", ["task", "figure", *labels(result)], rows, text_columns=2)
    made.strong_rows = strong
    return made


def differences(result: dict[str, Any]) -> Table | None:
    if not result["comparisons"]:
        return None
    names = dict(zip((model["model"] for model in result["models"]), labels(result), strict=True))
    rows: list[list[Cell | Words]] = [
        [
            names[row["model"]],
            row["task"],
            Code(row["figure"]),
            difference(row["difference"], row["interval"]),
            fixed(row["holm_p"]),
            FINDINGS[row["finding"]],
        ]
        for row in result["comparisons"]
    ]
    against = Cell("difference", f"from {labels(result)[0]}")
    head: list[Cell | Words] = ["model", "task", "figure", against, Cell("p", "Holm"), "finding"]
    return make_table("differences", head, rows, text_columns=3)


def tasks(result: dict[str, Any]) -> Table:
    rows = [
        [name, task["split"], f"{task['documents']:,}", str(task["num_fewshot"]), task["output_type"]]
        for name, task in result["tasks"].items()
    ]
    return make_table("tasks", ["task", "split", "documents", "examples", "kind"], rows, text_columns=2)


def steps(result: dict[str, Any]) -> list[float] | None:
    """The step of every model, where all are checkpoints, of different steps."""
    found = [re.search(r"step-(\d+)$", PurePath(model["model"]).name) for model in result["models"]]
    values = [float(match[1]) for match in found if match]
    return values if len(values) == len(found) > 1 and len(set(values)) == len(values) else None


def note(result: dict[str, Any]) -> str:
    along = "the step of each checkpoint" if steps(result) else "the models in the order given"
    return f"A line a task, over {along}; dotted, its 95 % interval over documents."


def curve_names(result: dict[str, Any]) -> list[str]:
    return [*result["averaged"], *(["average"] if len(result["averaged"]) > 1 else [])]


def panel_of(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    """One figure along the models; nothing for a single one."""
    models = result["models"]
    if len(models) < 2:
        return None
    at = steps(result)
    order = sorted(range(len(models)), key=lambda index: at[index] if at else index)
    lines = []
    for arm, curve in enumerate(curve_names(result)):
        of = [(models[index]["average"] if curve == "average" and arm == len(result["averaged"]) else models[index]["figures"][curve]).get(name)
              for index in order]
        points = [(at[index] if at else float(place), figure) for place, (index, figure) in enumerate(zip(order, of, strict=True)) if figure]
        if len(points) < 2:
            continue
        x = [place for place, _ in points]
        lines.append(line(arm, "seed", (x, [figure["value"] for _, figure in points]), plotly_text(curve)))
        if all(figure["interval"] for _, figure in points):
            for side in (0, 1):
                lines.append(line(arm, "null", (x, [figure["interval"][side] for _, figure in points]), "95 % interval"))
    if not lines:
        return None
    title = TITLES.get(name, name)
    if at:
        return panel(f"along-{name}", title, name, {"xtitle": "step", "xkind": "step"}, lines)
    ticks = [plotly_text(shortened(labels(result)[index], 24)) for index in order]
    return panel(f"along-{name}", title, name, {"xtitle": "", "xkind": "group"}, lines, ticks=ticks)
