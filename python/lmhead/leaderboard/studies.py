"""A stage of a board as an ordinary study: its entries are the arms, the baseline is what each is compared with."""

from __future__ import annotations

from typing import Any

from lmhead.json_trees import lookup
from lmhead.leaderboard.board import Board, Entry, Stage


def study_name(board: Board, stage: Stage, equal: str) -> str:
    return f"{board.name}-{stage.name}-equal-{equal}"


def steps_at_cost(steps: int, cost: float, resolution: float) -> int:
    """Steps that take as long as `steps` of the baseline, for an entry whose step takes `cost` times as long. A cost within
    `resolution` of 1 cannot be told from 1 by timing, and both boards then share the runs."""
    return steps if abs(cost - 1) <= resolution else max(1, round(steps / cost))


def study_of(board: Board, stage: Stage, equal: str, entries: list[Entry], costs: dict[str, float]) -> dict[str, Any]:
    """The study file of `entries`, which has the baseline among them. `costs` holds a ratio for every one where `equal` is
    "time"."""
    full = board.steps_of(stage)
    search = {**board.search, **(stage.search or {})}
    arms = []
    for entry in entries:
        steps = steps_at_cost(full, costs[entry.name], board.cost_resolution) if equal == "time" else full
        arm: dict[str, Any] = {"name": entry.name, "set": {**settings_of(stage, entry), **_schedule(board, stage, steps, full)}}
        if entry.search is not None:
            arm["search"] = _search_of(entry, search)
        arms.append(arm)
    return {
        "name": study_name(board, stage, equal),
        "description": f"{stage.title}, at equal training {equal}. {board.description}",
        "base": board.base,
        "search": search,
        "seeds": list(stage.seeds or board.seeds),
        "arms": arms,
        "comparisons": [{"baseline": board.baseline}],
        "reach": board.baseline,
        **({"margin": board.margin} if board.margin is not None else {}),
        **({"details": list(board.details)} if board.details else {}),
        **({"limits": list(board.limits)} if board.limits else {}),
    }


def _search_of(entry: Entry, search: dict[str, Any]) -> dict[str, Any] | bool | None:
    """What the entry's search has in place of the stage's: of keys those that it names, so that the others stay searched."""
    if not isinstance(entry.search, dict) or not isinstance(entry.search.get("keys"), dict):
        return entry.search
    return {**entry.search, "keys": {**search.get("keys", {}), **entry.search["keys"]}}


def _schedule(board: Board, stage: Stage, steps: int, full: int) -> dict[str, Any]:
    """Steps, and what the base's configuration counts in steps, shortened alike: a schedule made for the budget."""
    base_steps = lookup(board.base, "training.steps")
    if steps == base_steps:
        return {}
    change: dict[str, Any] = {"training.steps": steps}
    for path in ("training.validate_every", "schedule.warmup_steps", "observe.diagnostics.every"):
        value = lookup(board.base, path)
        if value and path not in stage.set:
            change[path] = max(1, round(value * steps / (base_steps or full)))
    return change


def settings_of(stage: Stage, entry: Entry) -> dict[str, Any]:
    """What decides how long a step of the entry takes, by dotted key."""
    return {**stage.set, **entry.set}
