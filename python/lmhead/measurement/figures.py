"""Turns measurements into the panels that page.js draws (page/panels.py)."""

from __future__ import annotations

import math
from typing import Any

from lmhead.json_trees import lookup, number
from lmhead.page.labels import plotly_text
from lmhead.page.panels import line, panel

Section = tuple[str, str, list[dict[str, Any]]]  # title, note, panels


def numbers(values: Any) -> list[float]:
    """A list of finite numbers, NaN for what is none."""
    values = values if isinstance(values, list) else []
    found = [number(value) for value in values]
    return [value if value is not None and math.isfinite(value) else math.nan for value in found]


def sections(models: list[dict[str, Any]]) -> list[Section]:
    return [
        ("Across models", "Solid: destroyed ratio r. Dotted: r of a random subspace of the same rank.", across(models)),
        ("Where the gradient is lost",
         "Retained energy is the share of the squared logit gradient inside the head's column space. The quantiles count "
         "every token once, the groups weigh tokens by the energy of their gradient.",
         [quantiles(models), groups(models, "by_frequency", "By frequency of the target", "rank by count in this text"),
          groups(models, "by_position", "By context", "tokens before the input"),
          groups(models, "by_probability", "By predicted probability of the target", "")]),
        ("Spectrum",
         "Left: energy that the best k directions of the logit gradient hold; dotted, what the head's own column space "
         "holds. Where the curve passes k = D is the best that any linear head of this width could keep of these tokens; "
         "of a sketched spectrum the solid curve is a lower bound and the dashed one an upper. "
         "Right: the head's own singular values over the largest.",
         [cumulative(models), head_spectrum(models)]),
        ("Loss after logit steps of equal length",
         "Solid: against the gradient, the steepest direction. Dashed: the step that backpropagation into the features "
         "makes. Dotted: the gradient's projection on the head's column space, the best that features can do.",
         [update_direction(models)]),
    ]


def across(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratio and its null over training tokens for checkpoints, over D for models of several widths."""
    for key, title, xtitle, kind in (("training_tokens", "Destroyed ratio over training", "training tokens", "tokens"),
                                     ("hidden_size", "Destroyed ratio over width", "hidden size D", "width")):
        runs: dict[str, list[tuple[float, float, float, int]]] = {}
        for index, model in enumerate(models):
            place, ratio = lookup(model, key), lookup(model, "gradient_retention.destroyed_ratio")
            null = lookup(model, "gradient_retention.null_destroyed_ratio")
            if None not in (place, ratio, null):
                run = model["model"].rpartition(":")[0] if key == "training_tokens" else ""
                runs.setdefault(run, []).append((place, ratio, null, index))
        if not any(len({point[0] for point in points}) > 1 for points in runs.values()):
            continue
        lines = []
        for run, points in runs.items():
            points.sort()
            x, first = [point[0] for point in points], min(point[3] for point in points)
            name = plotly_text(run)
            lines.append(line(first, "seed", (x, [point[1] for point in points]), name))
            lines.append(line(first, "null", (x, [point[2] for point in points]), "null"))
        return [panel("across", title, "share of the norm, r", {"xtitle": xtitle, "xkind": kind}, lines, unlabelled=True)]
    return []


def quantiles(models: list[dict[str, Any]]) -> dict[str, Any]:
    lines = []
    for index, model in enumerate(models):
        found = lookup(model, "token_breakdown.quantiles") or {}
        points = [(float(level), value) for level, value in found.items() if isinstance(value, (int, float))]
        if points:
            lines.append(line(index, "seed", ([x for x, _ in points], [y for _, y in points]), ""))
    return panel("quantiles", "Retained energy by token", "retained energy of a token",
                 {"xtitle": "share of the tokens below", "xkind": "quantile"}, lines)


def groups(models: list[dict[str, Any]], key: str, title: str, xtitle: str) -> dict[str, Any]:
    found = [lookup(model, f"token_breakdown.{key}") or [] for model in models]
    names: list[str] = max(([str(group["group"]) for group in one] for one in found), key=len, default=[])
    for one in found:  # a group that only another model has comes last
        names += [str(group["group"]) for group in one if str(group["group"]) not in names]
    lines = []
    for index, one in enumerate(found):
        points = sorted((names.index(str(group["group"])), group["retained_energy"]) for group in one
                        if isinstance(group.get("retained_energy"), (int, float)))
        if points:
            lines.append(line(index, "seed", ([float(x) for x, _ in points], [y for _, y in points]), ""))
    return panel(key.replace("_", "-"), title, "retained energy", {"xtitle": xtitle, "xkind": "group"}, lines,
                 ticks=[plotly_text(name) for name in names])


def cumulative(models: list[dict[str, Any]]) -> dict[str, Any]:
    lines = []
    for index, model in enumerate(models):
        x = numbers(lookup(model, "gradient_spectrum.cumulative.components"))
        y = numbers(lookup(model, "gradient_spectrum.cumulative.energy"))
        own, width = lookup(model, "gradient_spectrum.retained_energy"), lookup(model, "hidden_size")
        if x and len(x) == len(y):
            lines.append(line(index, "seed", (x, y), "best k directions"))
            most = numbers(lookup(model, "gradient_spectrum.cumulative.energy_upper_bound"))
            if len(most) == len(x):
                lines.append(line(index, "seed", (x, most), "upper bound", dashed=True))
            if own is not None and width:
                lines.append(line(index, "null", ([1.0, float(width)], [own, own]), "the head's own, up to k = D"))
    return panel("cumulative", "Energy in the best k directions", "share of the energy",
                 {"xtitle": "directions k", "xkind": "components"}, lines, xlog=True)


def head_spectrum(models: list[dict[str, Any]]) -> dict[str, Any]:
    lines = []
    for index, model in enumerate(models):
        values = numbers(lookup(model, "head_spectrum.singular_values"))
        largest = max((value for value in values if math.isfinite(value)), default=0.0)
        shares = [value / largest for value in values if largest > 0 and value > 1e-7 * largest]
        if shares:
            lines.append(line(index, "seed", ([float(at) for at in range(1, len(shares) + 1)], shares), ""))
    return panel("head-spectrum", "The head's spectrum", "singular value / largest",
                 {"xtitle": "index of the singular value", "xkind": "index"}, lines, ylog=True)


def update_direction(models: list[dict[str, Any]]) -> dict[str, Any]:
    lines = []
    for index, model in enumerate(models):
        sizes = numbers(lookup(model, "update_direction.step_sizes"))
        kept = [at for at, size in enumerate(sizes) if size > 0]  # the axis is logarithmic
        for direction, kind, dashed in (("gradient", "seed", False), ("backpropagation", "seed", True),
                                        ("projection", "null", False)):
            after = numbers(lookup(model, f"update_direction.loss_after.{direction}"))
            if len(after) == len(sizes) and kept:
                lines.append(line(index, kind, ([sizes[at] for at in kept], [after[at] for at in kept]), direction,
                                  dashed=dashed))
    return panel("update-direction", "Loss against step size", "loss (nats per token)",
                 {"xtitle": "root mean square length of a token's logit change", "xkind": "size"}, lines, xlog=True,
                 unlabelled=True)
