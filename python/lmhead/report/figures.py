"""Turns runs into panels (page/panels.py): plain numbers, thinned to what a screen can show."""

from __future__ import annotations

import math
from typing import Any

from lmhead.json_trees import number
from lmhead.page.panels import POINTS_PER_LINE, Points, line, panel
from lmhead.report.facts import LOSS, RETENTION
from lmhead.report.runs import Arm, Run, Study

POINTS_PER_PANEL = 60_000
RUNS_WITH_RAW_LOSS = 6  # beyond it the unsmoothed losses would hide one another
ROUNDING_OF_FLOAT32 = 1e-7  # singular values below this share of the largest are rounding


def panels(study: Study) -> list[dict[str, Any]]:
    """All panels in the order of the page; one without data has no lines."""
    unit, seconds = time_unit(study)
    tokens = {"xtitle": "training tokens", "xscale": 1, "xkind": "tokens"}
    wall = {"xtitle": f"training time ({unit})", "xscale": seconds, "xkind": "wall_seconds"}
    loss = "loss (nats per token)"
    ratio = "share of the norm, r"
    return [
        cropped(
            metric_panel(study, "validation-tokens", "Validation loss against tokens", LOSS, loss, tokens)
        ),
        cropped(
            metric_panel(study, "validation-time", "Validation loss against wall-clock", LOSS, loss, wall)
        ),
        cropped(training_panel(study, "training-tokens", "Training loss against tokens", loss, tokens)),
        cropped(training_panel(study, "training-time", "Training loss against wall-clock", loss, wall)),
        metric_panel(
            study,
            "destroyed-ratio",
            "Destroyed ratio and its null",
            RETENTION + "destroyed_ratio",
            ratio,
            tokens,
            null=RETENTION + "null_destroyed_ratio",
        ),
        metric_panel(
            study,
            "destroyed-excess",
            "Excess over the null",
            RETENTION + "destroyed_excess",
            "r − null",
            tokens,
            zero=True,
        ),
        metric_panel(study, "step-cosine", "Step cosine", RETENTION + "step_cosine", "cosine", tokens),
        spectrum_panel(study),
    ]


def time_unit(study: Study) -> tuple[str, float]:
    longest = max(
        (
            value
            for run in study.runs
            for value in run.log.get("wall_seconds", {}).values()
            if math.isfinite(value)
        ),
        default=0.0,
    )
    return ("s", 1.0) if longest < 120 else ("min", 60.0) if longest < 7200 else ("h", 3600.0)


def points_per_line(study: Study) -> int:
    return max(100, min(POINTS_PER_LINE, POINTS_PER_PANEL // max(1, len(study.runs))))


def against(run: Run, values: dict[int, float], axis: dict[str, Any]) -> Points:
    """The points (x, value) of the steps at which x was logged too."""
    places = run.log.get(axis["xkind"], {})
    steps = [step for step in values if step in places and math.isfinite(places[step])]
    return [places[step] / axis["xscale"] for step in steps], [values[step] for step in steps]


def run_label(run: Run) -> str:
    seed = f"seed {run.seed}" if run.seed is not None else ""
    return ", ".join(part for part in (seed, "" if run.finished else run.state) if part)


def metric_panel(
    study: Study,
    identity: str,
    title: str,
    metric: str,
    ytitle: str,
    axis: dict[str, Any],
    null: str | None = None,
    zero: bool = False,
) -> dict[str, Any]:
    """A line per run, each arm's mean over its finished seeds, and its null line where one is asked for."""
    limit, lines, thinned = points_per_line(study), [], False
    for index, arm in enumerate(study.arms):
        for run in arm.runs:
            points = against(run, run.log.get(metric, {}), axis)
            if points[0]:
                lines.append(line(index, "seed", points, run_label(run), limit, not run.finished))
                thinned |= len(points[0]) > limit
        mean = mean_points(arm, metric, axis)
        if mean[0]:
            lines.append(line(index, "mean", mean, f"mean of {len(arm.finished)} seeds", limit))
        if null:
            longest = max(arm.runs, key=lambda run: len(run.log.get(null, {})))
            points = against(longest, longest.log.get(null, {}), axis)
            if points[0]:
                lines.append(line(index, "null", points, "null: random subspace", limit))
    return panel(identity, title, ytitle, axis, lines, thinned, zero=zero)


def cropped(shown: dict[str, Any]) -> dict[str, Any]:
    """The panel with a first view (`yrange`) that the steep fall of the first tenth does not flatten."""
    lines = [line for line in shown["lines"] if line["kind"] != "raw"]
    end = max((line["x"][-1] for line in lines), default=0)
    later = [y for line in lines for x, y in zip(line["x"], line["y"]) if y is not None and x >= 0.1 * end]
    if later and max(later) > min(later):
        margin = 0.06 * (max(later) - min(later))
        shown["yrange"] = [min(later) - margin, max(later) + margin]
    return shown


def mean_points(arm: Arm, metric: str, axis: dict[str, Any]) -> Points:
    """Means of x and metric at every step that all finished seeds logged; nothing for fewer than two."""
    runs = [run for run in arm.finished if run.log.get(metric)]
    if len(runs) < 2:
        return [], []
    steps = [
        step
        for step in runs[0].log[metric]
        if all(step in run.log[metric] and step in run.log.get(axis["xkind"], {}) for run in runs)
    ]
    places = [
        math.fsum(run.log[axis["xkind"]][step] for run in runs) / len(runs) / axis["xscale"] for step in steps
    ]
    return places, [math.fsum(run.log[metric][step] for run in runs) / len(runs) for step in steps]


def training_panel(
    study: Study, identity: str, title: str, ytitle: str, axis: dict[str, Any]
) -> dict[str, Any]:
    """Each run's loss smoothed, over the faint unsmoothed one where few runs are drawn."""
    limit, lines, thinned = points_per_line(study), [], False
    few = len(study.runs) <= RUNS_WITH_RAW_LOSS and len(study.arms) == len(study.runs)
    for index, arm in enumerate(study.arms):
        for run in arm.runs:
            x, y = against(run, run.log.get("loss", {}), axis)
            if not x:
                continue
            thinned |= len(x) > limit
            if few:
                lines.append(line(index, "raw", (x, y), "", limit))
            lines.append(line(index, "seed", (x, smoothed(y)), run_label(run), limit, not run.finished))
        x, y = mean_points(arm, "loss", axis)
        if x:
            lines.append(line(index, "mean", (x, smoothed(y)), f"mean of {len(arm.finished)} seeds", limit))
    return panel(identity, title, ytitle, axis, lines, thinned)


def spectrum_panel(study: Study) -> dict[str, Any]:
    """Singular values of each head at the end of its run, relative to the largest."""
    lines, axis = [], {"xtitle": "index of the singular value", "xkind": "index"}
    for index, arm in enumerate(study.arms):
        for run in arm.runs:
            values = run.summary.get("head_singular_values")
            values = (
                [value for entry in values if (value := number(entry)) is not None]
                if isinstance(values, list)
                else []
            )
            largest = max((value for value in values if math.isfinite(value)), default=0.0)
            shares = [
                value / largest for value in values if largest > 0 and value >= ROUNDING_OF_FLOAT32 * largest
            ]
            if shares:
                lines.append(
                    line(
                        index,
                        "seed",
                        ([float(place) for place in range(1, len(shares) + 1)], shares),
                        run_label(run),
                        points_per_line(study),
                        not run.finished,
                    )
                )
    return panel(
        "spectrum", "The head's spectrum at the end", "singular value / largest", axis, lines, ylog=True
    )


def smoothed(values: list[float]) -> list[float]:
    """Moving mean over about 2 % of the values; a value that is not finite stays one and joins no mean.

    The window is centred and narrows at the steep beginning; at the end it loses its later half only, so
    that the last point is no single step's noise.
    """
    reach = len(values) // 100
    sums, counts = [0.0], [0]
    for value in values:
        finite = math.isfinite(value)
        sums.append(sums[-1] + (value if finite else 0.0))
        counts.append(counts[-1] + finite)
    result = []
    for place, value in enumerate(values):
        half = min(reach, place)
        low, high = place - half, min(place + half + 1, len(values))
        result.append(
            (sums[high] - sums[low]) / (counts[high] - counts[low]) if math.isfinite(value) else math.nan
        )
    return result
