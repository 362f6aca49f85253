"""A stage of a board as an ordinary study: its entries are the arms, the baseline is what each is compared with."""

from __future__ import annotations

from typing import Any

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
    arms = []
    for entry in entries:
        steps = steps_at_cost(full, costs[entry.name], board.cost_resolution) if equal == "time" else full
        arm: dict[str, Any] = {"name": entry.name, "set": {**stage.set, **entry.set, **_schedule(board, stage, steps, full)}}
        if entry.search is not None:
            arm["search"] = entry.search
        arms.append(arm)
    return {
        "name": study_name(board, stage, equal),
        "description": f"{stage.title}, at equal training {equal}. {board.description}",
        "base": board.base,
        "search": {**board.search, **(stage.search or {})},
        "seeds": list(stage.seeds or board.seeds),
        "arms": arms,
        "comparisons": [{"baseline": board.baseline}],
        "reach": board.baseline,
        **({"margin": board.margin} if board.margin is not None else {}),
        **({"details": list(board.details)} if board.details else {}),
        **({"limits": list(board.limits)} if board.limits else {}),
    }


def _schedule(board: Board, stage: Stage, steps: int, full: int) -> dict[str, Any]:
    """Steps, and what the configuration counts in steps, shortened alike: a schedule made for the budget."""
    if steps == board.base.get("training", {}).get("steps"):
        return {}

    def scaled(section: dict[str, Any], key: str, of: int) -> int | None:
        value = section.get(key)
        return None if not value else max(1, round(value * steps / of))

    base_steps = board.base.get("training", {}).get("steps", full)
    change: dict[str, Any] = {"training.steps": steps}
    for path, section in (
        ("training.validate_every", board.base.get("training", {})),
        ("schedule.warmup_steps", board.base.get("schedule", {})),
        ("observe.diagnostics.every", board.base.get("observe", {}).get("diagnostics", {})),
    ):
        value = scaled(section, path.rsplit(".", 1)[1], base_steps)
        if value is not None and path not in stage.set:
            change[path] = value
    return change


def settings_of(board: Board, stage: Stage, entry: Entry) -> dict[str, Any]:
    """What decides how long a step of the entry takes, by dotted key."""
    return {**stage.set, **entry.set}
