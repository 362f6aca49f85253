"""Who goes on to the next stage, by the rule that the board states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmhead.leaderboard.board import Board, Entry, Stage


@dataclass(frozen=True)
class Chosen:
    """The entries of a stage, and those whose earlier stage is not finished, so that nobody can say."""

    entries: list[Entry]
    undecided: list[str]


def is_finished(arm: dict[str, Any]) -> bool:
    return bool(arm["search_finished"]) and arm["missing"] == 0


def compared(statistics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Comparisons with the baseline by the name of the entry."""
    return {one["arm"]: one for one in statistics["comparisons"]}


def chosen_for(board: Board, stage: Stage, earlier: dict[str, Any] | None) -> Chosen:
    """Everybody, or the baseline, those whose 95 % interval lies below it in `earlier`, the best others, and those that
    always go on. `earlier` is the earlier stage's statistics, None where it has none yet."""
    who = stage.entrants
    if who.gaining_in is None:
        return Chosen(list(board.entries), [])
    always = {board.baseline, *who.always}
    if earlier is None:
        waiting = [entry.name for entry in board.entries if entry.name not in always]
        return Chosen([entry for entry in board.entries if entry.name in always], waiting)
    finished = {arm["arm"]: is_finished(arm) for arm in earlier["arms"]}
    comparisons = compared(earlier)
    undecided = [entry.name for entry in board.entries if entry.name not in always and not finished.get(entry.name)]
    gaining: list[tuple[float, str]] = []
    others: list[tuple[float, str]] = []
    for entry in board.entries:
        one = comparisons.get(entry.name)
        if entry.name in always or entry.name in undecided or one is None or one.get("mean_difference") is None:
            continue
        interval = one.get("interval")
        (gaining if interval and interval[1] < 0 else others).append((one["mean_difference"], entry.name))
    go_on = always | {name for _, name in gaining} | {name for _, name in sorted(others)[: who.best_others]}
    return Chosen([entry for entry in board.entries if entry.name in go_on], undecided)
