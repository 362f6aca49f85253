"""The leaderboard as one Markdown page: the same bytes for the same rows."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from lmhead.formats import ABSENT, compact, difference, fixed, p_value
from lmhead.leaderboard.board import Board, Stage
from lmhead.leaderboard.costs import Cost
from lmhead.leaderboard.standings import compared, is_finished
from lmhead.study.document import best_values
from lmhead.study.markdown import block, code, fenced, image, table, words
from lmhead.tables import Words

RETAINED = "diagnostics.gradient_retention.retained_energy"
NULL = "diagnostics.gradient_retention.null_destroyed_ratio"


@dataclass(frozen=True)
class Part:
    """One table of the page: a stage at equal time or equal tokens, and what its rows say."""

    stage: Stage
    equal: str
    statistics: dict[str, Any] | None  # None: nobody has begun
    costs: dict[str, Cost]
    undecided: list[str]  # entries that an earlier stage, unfinished, may still send here
    plot: str | None = None


def render(board: Board, parts: list[Part], command: str) -> str:
    lines = [f"# {block(board.name.capitalize())}", "", block(board.description), ""]
    lines += _rules(board)
    begun = [part for part in parts if _is_begun_beyond(board.baseline, part)]
    for part in begun:
        lines += _section(board, part, command)
    waiting: dict[str, list[str]] = {}
    for part in parts:
        if part not in begun:
            waiting.setdefault(part.stage.title, []).append(part.equal)
    if waiting:
        lines += ["## Not begun", "", *[f"- {words(title)}, at equal {' and '.join(equal)}" for title, equal in waiting.items()], ""]
    if board.limits:
        lines += ["## What this does not show", "", *[f"- {block(limit)}" for limit in board.limits], ""]
    lines += ["## To reproduce", "", *fenced([command]), ""]
    return "\n".join(lines)


def _rules(board: Board) -> list[str]:
    margin = f" The smallest difference that would matter was set at {compact(board.margin)}." if board.margin else ""
    return [
        f"Every entry is searched in the same way and then confirmed on seeds that no search saw, paired with "
        f"*{words(board.baseline)}*. At equal time an entry whose step takes c times as long as the baseline's trains for "
        f"1/c of the steps, with a schedule made for them; a c within {compact(board.cost_resolution)} of 1 counts as 1. "
        f"Lower is better. Intervals are 95 % t intervals, p is Holm's over the table.{margin} How each figure is computed: "
        "[statistics.md](statistics.md). Entries that lose stay.",
        "",
    ]


def _section(board: Board, part: Part, command: str) -> list[str]:
    lines = [f"## {block(part.stage.title)}, at equal {part.equal}", ""]
    assert part.statistics is not None  # it is begun
    found = {arm["arm"]: arm for arm in part.statistics["arms"]}
    whole = [arm for arm in found.values() if is_finished(arm)]
    comparisons = compared(part.statistics)
    rows: list[list[Words]] = []
    for arm in sorted(whole, key=_by_mean):
        rows.append(_row(board, arm, comparisons.get(arm["arm"]), part.costs.get(arm["arm"]), rank=len(rows) + 1))
    if rows:
        head = ["", "entry", "nats per token", "bits per byte", "difference", "p", "verdict", "cost", "retained (null)", "found"]
        lines += [*table(head, rows), ""]
    if part.plot:
        lines += [image("differences with 95 % intervals", part.plot), ""]
    lines += _notes(board, found)
    unfinished = [arm for arm in found.values() if not is_finished(arm)]
    said = [f"{words(arm['arm'])}: {_missing(arm)}" for arm in unfinished if _is_begun(arm)]
    if said:
        lines += [f"Not finished: {'; '.join(said)}.", ""]
    waiting = [words(arm["arm"]) for arm in unfinished if not _is_begun(arm)]
    if waiting:
        lines += [f"Not begun: {'; '.join(waiting)}.", ""]
    if part.undecided:
        lines += [f"May still come from the earlier stage, which is not finished: {len(part.undecided)} entries.", ""]
    versions = ", ".join(map(str, part.statistics["runs"].get("versions", []))) or ABSENT
    one_entry = f"{command} --stage {shlex.quote(part.stage.name)} --equal {part.equal} --entries NAME"
    lines += [f"One entry: {code(one_entry)}. Rows of version {versions}.", ""]
    return lines


def _row(board: Board, arm: dict[str, Any], one: dict[str, Any] | None, cost: Cost | None, rank: int) -> list[Words]:
    is_baseline = arm["arm"] == board.baseline
    figures = arm["figures"]
    retained, null = figures.get(RETAINED), figures.get(NULL)
    energy = f"{retained:.4f} ({1 - null * null:.4f})" if retained is not None and null is not None else ABSENT
    ratio = "1" if is_baseline else ABSENT if cost is None else f"{cost.ratio:.3f} [{cost.low:.3f}, {cost.high:.3f}]"
    seeds = f", {arm['diverged']} diverged" if arm["diverged"] else ""
    return [
        str(rank),
        arm["arm"],
        difference(arm["mean"], arm["interval"], sign=False) + seeds,
        fixed(figures.get("validation.bits_per_byte"), 4),
        ABSENT if one is None else difference(one.get("mean_difference"), one.get("interval")),
        ABSENT if one is None else p_value(one.get("holm_p")),
        "baseline" if is_baseline else ABSENT if one is None else one["verdict"].split(":")[0],
        ratio,
        energy,
        best_values(arm) or ABSENT,
    ]


def _notes(board: Board, found: dict[str, Any]) -> list[str]:
    notes = [f"- **{words(entry.name)}**: {words(entry.note)}" for entry in board.entries if entry.note and entry.name in found and _is_begun(found[entry.name])]
    return [*notes, ""] if notes else []


def _is_begun(arm: dict[str, Any]) -> bool:
    """Whether a run of it is finished, of its search or of its seeds."""
    return bool(arm["seeds"]) or any(value is not None for key in arm["search"] for one in key["candidates"] for value in one["outcomes"])


def _is_begun_beyond(baseline: str, part: Part) -> bool:
    return part.statistics is not None and any(_is_begun(arm) for arm in part.statistics["arms"] if arm["arm"] != baseline)


def _missing(arm: dict[str, Any]) -> str:
    if not arm["search_finished"]:
        return "still searched"
    return f"{arm['missing']} of {arm['missing'] + len(arm['seeds'])} seeds missing"


def _by_mean(arm: dict[str, Any]) -> tuple[bool, float]:
    mean = arm["mean"]
    return (mean is None, mean or 0.0)
