"""What a training step of every entry costs beside the baseline's, measured on the entries' own configurations."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.json_trees import lookup, number, parse
from lmhead.leaderboard.board import Board, Entry, Stage
from lmhead.leaderboard.studies import settings_of
from lmhead.study.statistics import native_command

STEPS = 30  # of a run that is timed: its median step is taken


@dataclass(frozen=True)
class Cost:
    """Seconds of a step over the baseline's: median over rounds, and the smallest and the largest."""

    ratio: float
    low: float
    high: float
    rounds: int
    machine: str


def read(path: Path, board: Board, stage: Stage) -> dict[str, Cost]:
    """The newest cost of every entry whose settings are those measured; the baseline's is 1."""
    found = {board.baseline: Cost(1, 1, 1, 0, "")}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for index, line in enumerate(lines, start=1):
        try:
            row = parse(line)
        except ValueError as error:
            raise RequestError(f"{path}:{index} must be a row of costs, got: {error}") from None
        if not isinstance(row, dict) or row.get("board") != board.name or row.get("base") != board.base:
            continue
        for entry in board.entries:
            if row.get("settings") == settings_of(board, stage, entry) and row.get("baseline_settings") == settings_of(
                board, stage, board.entry(board.baseline)
            ):
                values = [number(row.get(key)) for key in ("ratio", "low", "high")]
                if any(value is None or not 0 < value < 1e6 for value in values):
                    raise RequestError(f"{path}:{index} must have ratio, low and high, positive numbers, got {line:.80}")
                ratio, low, high = (float(value or 0) for value in values)
                found[entry.name] = Cost(ratio, low, high, int(row.get("rounds", 0)), str(row.get("machine", "")))
    return found


def measure(board: Board, stage: Stage, entries: list[Entry], rounds: int, path: Path, commit: str) -> dict[str, Cost]:
    """Times `entries` against the baseline, in turn within every round, and appends a row for each to `path`."""
    baseline = board.entry(board.baseline)
    seconds: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        beside = _step_seconds(board, stage, baseline)
        for entry in entries:
            own = beside if entry is baseline else _step_seconds(board, stage, entry)
            seconds[entry.name].append(own / beside)
    machine = f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores"
    costs = {}
    with path.open("a", encoding="utf-8") as out:
        for name, ratios in seconds.items():
            costs[name] = Cost(statistics.median(ratios), min(ratios), max(ratios), rounds, machine)
            row = {
                "benchmark": "leaderboard_costs",
                "board": board.name,
                "entry": name,
                "settings": settings_of(board, stage, board.entry(name)),
                "baseline_settings": settings_of(board, stage, baseline),
                "base": board.base,
                "ratio": costs[name].ratio,
                "low": costs[name].low,
                "high": costs[name].high,
                "unit": "seconds of a step over the baseline's",
                "rounds": rounds,
                "steps": STEPS,
                "machine": machine,
                "date": datetime.date.today().isoformat(),
                "commit": commit,
            }
            out.write(json.dumps(row) + "\n")
    return costs


def configuration(board: Board, stage: Stage, entry: Entry) -> dict[str, Any]:
    """The entry's run as it is timed: its own settings, few steps, nothing validated or observed."""
    tree = json.loads(json.dumps(board.base))
    for path, value in {
        **settings_of(board, stage, entry),
        "training.steps": STEPS,
        "training.validate_every": 0,
        "training.checkpoint_every": 0,
        "data.validation_tokens": lookup(board.base, "data.sequence_length") or 128,
    }.items():
        _put(tree, path.split("."), value)
    tree.pop("observe", None)
    return tree


def _put(tree: Any, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[int(key)] if isinstance(tree, list) else tree.setdefault(key, {})
    if isinstance(tree, list):
        tree[int(path[-1])] = value
    else:
        tree[path[-1]] = value


def _step_seconds(board: Board, stage: Stage, entry: Entry) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "configuration.json", Path(folder) / "run"
        file.write_text(json.dumps(configuration(board, stage, entry)), encoding="utf-8")
        done = subprocess.run(
            [native_command(), "train", str(file), "--run", str(run)], capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["nothing"]
            raise RequestError(f"the entry {entry.name} must train, got: {lines[-1]}")
        speed = number(parse((run / "summary.json").read_bytes())["tokens_per_second"])
    if not speed:
        raise RequestError(f"the entry {entry.name} must have a speed, got none")
    return 1 / speed  # per token: every entry has the base's tokens a step


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"
