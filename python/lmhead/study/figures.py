"""The plots of a study document: SVG that is the same byte for byte for the same statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from lmhead.formats import compact, visible
from lmhead.study import fit

matplotlib.use("svg")
from matplotlib import pyplot, ticker  # noqa: E402

STYLE: Any = {
    "svg.hashsalt": "lmhead",  # names inside the file would be random otherwise
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}
# Okabe & Ito: told apart with any colour vision.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]
DASHES = ["-", "--", ":", "-."]


def plain(text: str) -> str:
    """Text that matplotlib takes as it is."""
    return visible(text).replace("$", r"\$")


def save(figure: Any, file: Path) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)


def label_of(statistics: dict[str, Any]) -> str:
    return statistics["outcome"] + (f" ({statistics['unit']})" if statistics["unit"] else "")


def differences(statistics: dict[str, Any], file: Path) -> bool:
    """Mean differences with t intervals, and the source's beside them; False where there is nothing to show."""
    shown = [one for one in statistics["comparisons"] if one.get("mean_difference") is not None]
    if not shown:
        return False
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 0.8 + 0.45 * len(shown)))
        for place, one in enumerate(shown):
            axes.scatter(
                one["differences"], [place - 0.18] * len(one["differences"]), s=10, color="#777777", zorder=3
            )
            draw_interval(axes, place, one["mean_difference"], one.get("interval"), COLORS[0], "o")
            source = one.get("source") or {}
            if source.get("difference") is not None:
                draw_interval(
                    axes, place + 0.25, source["difference"], source.get("interval"), COLORS[1], "D"
                )
        axes.axvline(0, color="#000000", linewidth=0.8)
        margin = statistics["margin"]
        if margin:
            axes.axvspan(-margin, margin, color="#000000", alpha=0.06, linewidth=0)
        axes.set_yticks(range(len(shown)), [plain(f"{one['arm']} − {one['baseline']}") for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(plain("difference in " + label_of(statistics)))
        axes.plot([], [], "o-", color=COLORS[0], label="here: mean, 95 % t interval")
        axes.plot([], [], "o", color="#777777", markersize=3, label="one seed")
        if any((one.get("source") or {}).get("difference") is not None for one in shown):
            axes.plot([], [], "D-", color=COLORS[1], label="as the source reported")
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        save(figure, file)
    return True


def against(statistics: dict[str, Any], file: Path) -> bool:
    """The outcome of every arm, mean and 95 % interval over seeds, against what the study names: a panel each."""

    def value_at(arm: dict[str, Any], name: str) -> Any:
        return arm["grid"].get(name, arm["figures"].get(name))

    names = statistics["against"]
    arms = [arm for arm in statistics["arms"] if arm["mean"] is not None]
    shown = [name for name in names if any(isinstance(value_at(arm, name), (int, float)) for arm in arms)]
    if not shown:
        return False
    choices = list(dict.fromkeys(arm["choice"] for arm in arms))
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, len(shown), figsize=(3.6 * len(shown), 3.2), sharey=True, squeeze=False)
        for axes, name in zip(panels[0], shown):
            for index, choice in enumerate(choices):
                own = [arm for arm in arms if arm["choice"] == choice and isinstance(value_at(arm, name), (int, float))]
                own.sort(key=lambda arm: value_at(arm, name))
                places, color = [value_at(arm, name) for arm in own], COLORS[index % len(COLORS)]
                dash = DASHES[index % len(DASHES)]
                axes.plot(places, [arm["mean"] for arm in own], dash, marker="o", color=color, label=plain(choice))
                for place, arm in zip(places, own):
                    if arm["interval"]:
                        axes.plot([place, place], arm["interval"], color=color, linewidth=2)
            places = [value_at(arm, name) for arm in arms if isinstance(value_at(arm, name), (int, float))]
            if min(places) > 0 and max(places) > 10 * min(places):
                axes.set_xscale("log")
                # matplotlib's own label every multiple of ten's power over a short span, one on another.
                subs = (1, 2, 5) if max(places) < 30 * min(places) else (1,)
                axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
                axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
                axes.xaxis.set_minor_formatter(ticker.NullFormatter())
            axes.set_xlabel(plain(name))
        panels[0][0].set_ylabel(plain(label_of(statistics)))
        panels[0][-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        save(figure, file)
    return True


def fits(statistics: dict[str, Any], file: Path) -> bool:
    """The differences at the places of the first fit, with 95 % intervals over seeds, and the fitted lines: a panel an arm,
    the first predictor's quantity along it, a colour for each value of the others."""
    request = next((one for one in statistics.get("fits", []) if any("slopes" in d for d in one["differences"])), None)
    if request is None:
        return False
    predictors = request["predictors"]
    figure_name = request["differences"][0]["figure"]
    shown = [one for one in request["differences"] if one["figure"] == figure_name and "slopes" in one]
    others = sorted({tuple(point["quantities"][1:]) for one in shown for point in one["points"]})
    with pyplot.rc_context(STYLE):
        picture, panels = pyplot.subplots(1, len(shown), figsize=(3.6 * len(shown), 3.2), squeeze=False)
        for axes, one in zip(panels[0], shown):
            for index, other in enumerate(others):
                own = sorted(
                    (point for point in one["points"] if tuple(point["quantities"][1:]) == other),
                    key=lambda point: point["quantities"][0],
                )
                if not own:
                    continue
                label = ", ".join(f"{p['quantity']} {compact(v)}" for p, v in zip(predictors[1:], other, strict=True))
                color = COLORS[index % len(COLORS)]
                for point in own:
                    axes.plot([point["quantities"][0]] * 2, point["interval"] or [], color=color, linewidth=2)
                places = [point["quantities"][0] for point in own]
                axes.plot(places, [sum(p["differences"]) / len(p["differences"]) for p in own], "o", color=color, markersize=4)
                line = [fit.value_at(one, predictors, [place, *other]) for place in places]
                marker = {} if len(places) > 1 else {"marker": "_", "markersize": 14}
                axes.plot(places, line, DASHES[index % len(DASHES)], color=color, label=plain(label or "fit"), **marker)
            axes.axhline(0, color="#000000", linewidth=0.8)
            if predictors[0]["log2"]:
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            axes.set_title(plain(f"{one['arm']} − {one['baseline']}"), fontsize=9)
            axes.set_xlabel(plain(predictors[0]["quantity"]))
        unit = shown[0]["unit"]
        panels[0][0].set_ylabel(plain(f"difference in {figure_name}" + (f" ({unit})" if unit else "")))
        panels[0][-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        picture.tight_layout()
        save(picture, file)
    return True


def draw_interval(
    axes: Any, place: float, value: float, interval: list[float] | None, color: str, marker: str
) -> None:
    if interval:
        axes.plot(interval, [place, place], color=color, linewidth=2)
    axes.plot([value], [place], marker, color=color, markersize=5)


def curves(statistics: dict[str, Any], file: Path) -> bool:
    """The outcome over tokens, mean over seeds; False where no arm was measured more than once in a run."""
    shown = [arm for arm in statistics["arms"] if len(arm["curve"]["tokens"]) > 1]
    if not shown:
        return False
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 4))
        for index, arm in enumerate(shown):
            style: Any = {
                "color": COLORS[index % len(COLORS)],
                "linestyle": DASHES[index // len(COLORS) % len(DASHES)],
            }
            curve = arm["curve"]
            mean = [float("nan") if value is None else value for value in curve["mean"]]
            axes.plot(curve["tokens"], mean, linewidth=1.5, marker=".", label=plain(arm["arm"]), **style)
        axes.set_xscale("log")
        axes.set_xlabel("training tokens")
        axes.set_ylabel(plain(label_of(statistics)))
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        save(figure, file)
    return True


def flattened(prefix: str, value: Any) -> dict[str, Any]:
    """The leaves of nested dicts by dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, below in value.items():
        leaves |= flattened(f"{prefix}.{key}", below)
    return leaves


def observed_curves(arm: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Of every kept leaf of an arm: lists `step`, `mean`, `low`, `high`."""
    curves: dict[str, dict[str, list[Any]]] = {}
    for path, observed in arm.get("observed", {}).items():
        for place, step in enumerate(observed["step"]):
            parts = {key: flattened(path, observed[key][place]) for key in ("mean", "low", "high")}
            for name, value in parts["mean"].items():
                curve = curves.setdefault(name, {"step": [], "mean": [], "low": [], "high": []})
                curve["step"].append(step)
                curve["mean"].append(value)
                for end in ("low", "high"):
                    curve[end].append(parts[end].get(name))
    return curves


def observed(statistics: dict[str, Any], file: Path) -> bool:
    """Kept numbers over training steps, a panel each, a line an arm; False where there is nothing to show."""
    arms = {arm["arm"]: observed_curves(arm) for arm in statistics["arms"]}
    names = sorted(
        name
        for name in {name for curves in arms.values() for name in curves}
        if any(varies(curves[name]["mean"]) for curves in arms.values() if name in curves)
    )
    if not names:
        return False
    with pyplot.rc_context(STYLE):
        columns = min(3, len(names))
        rows = -(-len(names) // columns)
        figure, panels = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 2.6 * rows), squeeze=False)
        for panel in panels.flat[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(panels.flat, names):
            for place, (arm, curves) in enumerate(arms.items()):
                if name not in curves:
                    continue
                curve, color = curves[name], COLORS[place % len(COLORS)]
                panel.plot(curve["step"], curve["mean"], color=color, label=plain(arm), linewidth=1.4)
                if all(end is not None for end in curve["low"] + curve["high"]):
                    panel.fill_between(curve["step"], curve["low"], curve["high"], color=color, alpha=0.2, linewidth=0)
            panel.set_xscale("log", base=2)
            panel.set_title(plain(".".join(name.split(".")[-2:])), fontsize=9)
        for panel in panels[-1]:
            panel.set_xlabel("step")
        if len(arms) > 1:
            handles, labels = panels[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, fontsize=8)
        figure.tight_layout()
        save(figure, file)
    return True


def varies(values: list[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values) and len(set(values)) > 1


def logit_steps(statistics: dict[str, Any], file: Path) -> bool:
    """The loss against the length of a logit step along each direction, a panel for each of four training steps."""
    key = "update_direction.loss_after."
    curves = observed_curves(statistics["arms"][0]) if statistics["arms"] else {}
    directions = {name.split(key)[1]: curve for name, curve in curves.items() if key in name}
    sizes = next((curve for name, curve in curves.items() if name.endswith("update_direction.step_sizes")), None)
    if not directions or sizes is None:
        return False
    steps = sizes["step"]
    chosen = sorted({0, len(steps) // 3, 2 * len(steps) // 3, len(steps) - 1})
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, len(chosen), figsize=(2.8 * len(chosen), 3), sharey=True, squeeze=False)
        for panel, place in zip(panels[0], chosen):
            for index, (direction, curve) in enumerate(directions.items()):
                color = COLORS[index % len(COLORS)]
                panel.plot(sizes["mean"][place], curve["mean"][place], DASHES[index % 4], color=color, label=direction)
                low, high = curve["low"][place], curve["high"][place]
                if low and low[0] is not None:
                    panel.fill_between(sizes["mean"][place], low, high, color=color, alpha=0.2, linewidth=0)
            panel.set_xscale("log")
            panel.set_title(f"step {steps[place]}", fontsize=9)
            panel.set_xlabel("length of the logit step")
        panels[0][0].set_ylabel("loss after it (nats/token)")
        panels[0][-1].legend(frameon=False, fontsize=8)
        save(figure, file)
    return True
