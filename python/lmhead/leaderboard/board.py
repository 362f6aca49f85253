"""What a board file says: entries, how they are searched and confirmed, and the stages they go through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.json_trees import parse

EQUAL = ("time", "tokens")


@dataclass(frozen=True)
class Entry:
    """One head, rule or optimiser: what it changes of the base, and how its own numbers are searched."""

    name: str
    set: dict[str, Any]
    search: dict[str, Any] | bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Entrants:
    """Who takes part in a stage: everybody, or those who did well in an earlier one."""

    gaining_in: str | None = None  # a stage; None: every entry
    best_others: int = 0
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    set: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    search: dict[str, Any] | None = None
    seeds: tuple[int, ...] | None = None
    equal: tuple[str, ...] = EQUAL
    entrants: Entrants = Entrants()


@dataclass(frozen=True)
class Board:
    name: str
    description: str
    baseline: str
    base: dict[str, Any]
    steps: int
    search: dict[str, Any]
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    stages: tuple[Stage, ...]
    margin: float | None = None
    cost_resolution: float = 0.02
    costs: str = "bench/results/leaderboard_costs.jsonl"
    details: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def entry(self, name: str) -> Entry:
        return next(entry for entry in self.entries if entry.name == name)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def steps_of(self, stage: Stage) -> int:
        return stage.steps or self.steps


class Members:
    """The members of one object of the file, taken one by one; what nobody took is unknown."""

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise RequestError(f"{where} must be an object, got {_kind(value)}")
        self._left, self._where = dict(value), where

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self._left:
            if default is ...:
                raise RequestError(f"{self._where} must have {key!r}, got {', '.join(sorted(self._left)) or 'nothing'}")
            return default
        value = self._left.pop(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(sorted({_NAMES[one] for one in kinds}))
            raise RequestError(f"{self._where}.{key} must be {wanted}, got {_kind(value)}")
        return value

    def take_list(self, key: str, kind: type, default: Any = ...) -> tuple[Any, ...]:
        values = self.take(key, list, default)
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise RequestError(f"{self._where}.{key} must hold only {_NAMES[kind]}s, got {_kind(value)}")
        return tuple(values)

    def finish(self) -> None:
        if self._left:
            raise RequestError(f"{self._where} must have known members only, got {min(self._left)!r}")


_NAMES: Mapping[type, str] = {dict: "object", list: "list", str: "text", int: "number", float: "number", bool: "boolean"}


def _kind(value: Any) -> str:
    return "null" if value is None else f"{_NAMES.get(type(value), type(value).__name__)} {value!r:.60}"


def read(path: Path) -> Board:
    """The board in `path`; RequestError, one line, where it is none."""
    try:
        json = parse(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{path} must be a readable board file, got: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"{path} must be JSON, got: {error}") from None
    return _board(json)


def _board(json: Any) -> Board:
    members = Members(json, "board")
    entries = tuple(_entry(one, f"entries[{index}]") for index, one in enumerate(members.take("entries", list)))
    stages = tuple(_stage(one, f"stages[{index}]") for index, one in enumerate(members.take("stages", list)))
    board = Board(
        name=members.take("name", str),
        description=members.take("description", str, ""),
        baseline=members.take("baseline", str),
        base=members.take("base", dict),
        steps=members.take("steps", int),
        search=members.take("search", dict),
        seeds=members.take_list("seeds", int),
        entries=entries,
        stages=stages,
        margin=members.take("margin", (int, float), None),
        cost_resolution=members.take("cost_resolution", (int, float), Board.cost_resolution),
        costs=members.take("costs", str, Board.costs),
        details=members.take_list("details", str, []),
        limits=members.take_list("limits", str, []),
    )
    members.finish()
    _check(board)
    return board


def _entry(json: Any, where: str) -> Entry:
    members = Members(json, where)
    entry = Entry(
        members.take("name", str),
        members.take("set", dict, {}),
        members.take("search", (dict, bool), None),
        members.take("note", str, ""),
    )
    members.finish()
    return entry


def _stage(json: Any, where: str) -> Stage:
    members = Members(json, where)
    seeds = members.take_list("seeds", int, [])
    stage = Stage(
        name=members.take("name", str),
        title=members.take("title", str),
        set=members.take("set", dict, {}),
        steps=members.take("steps", int, None),
        search=members.take("search", dict, None),
        seeds=seeds or None,
        equal=members.take_list("equal", str, list(EQUAL)),
        entrants=_entrants(members.take("entries", (str, dict), "all"), f"{where}.entries"),
    )
    members.finish()
    return stage


def _entrants(json: Any, where: str) -> Entrants:
    if json == "all":
        return Entrants()
    members = Members(json, where)
    entrants = Entrants(
        members.take("gaining_in", str), members.take("best_others", int, 0), members.take_list("always", str, [])
    )
    members.finish()
    return entrants


def _check(board: Board) -> None:
    names = [entry.name for entry in board.entries]
    for what, all_names in (("entries", names), ("stages", [stage.name for stage in board.stages])):
        twice = sorted({name for name in all_names if all_names.count(name) > 1})
        if not all_names or twice:
            raise RequestError(f"{what} must have names of their own, got {twice[0] + ' twice' if twice else 'none'}")
    if board.baseline not in names:
        raise RequestError(f"baseline must be the name of an entry, got {board.baseline!r}")
    if board.steps < 1 or not board.seeds or not 0 <= board.cost_resolution < 1:
        raise RequestError("steps must be positive, seeds not empty and cost_resolution between 0 and 1")
    seen: set[str] = set()
    for stage in board.stages:
        wrong = [kind for kind in stage.equal if kind not in EQUAL]
        if wrong or not stage.equal:
            raise RequestError(f"stage {stage.name}: equal must hold {' or '.join(EQUAL)}, got {wrong or 'nothing'}")
        if stage.steps is not None and stage.steps < 1:
            raise RequestError(f"stage {stage.name}: steps must be positive, got {stage.steps}")
        earlier, always = stage.entrants.gaining_in, stage.entrants.always
        if earlier is not None and earlier not in seen:
            raise RequestError(f"stage {stage.name}: gaining_in must be an earlier stage, got {earlier!r}")
        unknown = [name for name in always if name not in names]
        if unknown:
            raise RequestError(f"stage {stage.name}: always must name entries, got {unknown[0]!r}")
        seen.add(stage.name)
