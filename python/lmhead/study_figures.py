"""The plots of a study document: SVG that is the same byte for byte for the same statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

STYLE = {
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
    return text.replace("$", r"\$")


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
            style = {
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
