"""What a training step of every entry costs beside the baseline's: measured on the entries' own configurations, or of an entry that is
another head and nothing else by the heads' benchmark."""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.json_trees import lookup, number, parse
from lmhead.leaderboard.board import Board, Entry, Stage
from lmhead.leaderboard.studies import settings_of
from lmhead.study.statistics import native_command

HEAD_ROWS = "heads.jsonl"  # of bench/heads.py
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
    """The newest cost of every entry whose settings are those measured, else what the rows of `make bench-heads` that lie beside
    `path` say of its head; the baseline's is 1."""
    found = {board.baseline: Cost(1, 1, 1, 0, ""), **of_heads(path.with_name(HEAD_ROWS), board, stage)}
    baseline = settings_of(stage, board.entry(board.baseline))
    for index, line, row in _rows(path):
        if (row.get("board"), row.get("base")) != (board.name, board.base):
            continue
        if row.get("baseline_settings") != baseline:
            continue
        for entry in board.entries:
            if row.get("settings") == settings_of(stage, entry):
                values = [number(row.get(key)) for key in ("ratio", "low", "high")]
                if any(value is None or not 0 < value < 1e6 for value in values):
                    raise RequestError(f"{path}:{index} must have ratio, low and high, positive numbers, got {line:.80}")
                ratio, low, high = (float(value or 0) for value in values)
                found[entry.name] = Cost(ratio, low, high, int(row.get("rounds", 0)), str(row.get("machine", "")))
    return found


def of_heads(path: Path, board: Board, stage: Stage) -> dict[str, Cost]:
    """Costs of a training step from those of the heads alone: a head that takes r times as long as the linear one, which takes a
    share s of the step, makes it 1 + s (r - 1) times as long. Of entries that change the head and nothing else, for a board
    whose tokens a step and model are those that were timed and whose baseline is the linear head."""
    base, baseline = board.base, settings_of(stage, board.entry(board.baseline))
    rows = (lookup(base, "data.batch_size") or 0) * (lookup(base, "data.sequence_length") or 0)
    if baseline or base.get("head", {"type": "linear"}) != {"type": "linear"}:
        return {}
    whole: dict[tuple[str, int], float] = {}  # seconds of a step by machine and threads, the newest
    heads: list[tuple[tuple[str, int], dict[str, Any]]] = []
    for index, line, row in _rows(path):
        if row.get("metric") != "seconds" or lookup(row, "shape.N") != rows:
            continue
        seconds, timed_on = number(row.get("median")), (str(row.get("machine")), int(row.get("threads", 0)))
        if not seconds or seconds <= 0:
            raise RequestError(f"{path}:{index} must have a positive median, got {line:.80}")
        if "model" in row:
            if row["model"] == base.get("model"):
                whole[timed_on] = float(seconds)
        elif lookup(row, "shape.D") == lookup(base, "model.hidden_size"):
            heads.append((timed_on, row))
    found = {}
    for entry in board.entries:
        settings = {key.removeprefix("head."): value for key, value in settings_of(stage, entry).items() if key.startswith("head.")}
        if not settings or len(settings) != len(settings_of(stage, entry)):
            continue
        for timed_on, row in heads:
            if row.get("settings") != {"type": "linear", **settings} or timed_on not in whole:
                continue
            share = float(row["linear"]) / whole[timed_on]
            ratio, low, high = (1 + share * (float(one) - 1) for one in (row["ratio_to_linear"], *row["ratio_quantiles"]))
            found[entry.name] = Cost(ratio, low, high, int(row.get("rounds", 0)), timed_on[0])
    return found


def _rows(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, text and members of every line that is an object."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for index, line in enumerate(lines, start=1):
        try:
            row = parse(line)
        except ValueError as error:
            raise RequestError(f"{path}:{index} must be a row of costs, got: {error}") from None
        if isinstance(row, dict):
            yield index, line, row


def measure(board: Board, stage: Stage, entry: Entry, rounds: int, path: Path) -> Cost:
    """Times `entry` against the baseline, in turn within every round, and appends a row to `path`."""
    baseline = board.entry(board.baseline)
    ratios = []
    for _ in range(rounds):
        beside, _by = _step(board, stage, baseline)
        own, by = _step(board, stage, entry)
        ratios.append(own / beside)
    cost = Cost(statistics.median(ratios), min(ratios), max(ratios), rounds, f"{by['processor']}, {by['threads']} threads")
    row = {
        "benchmark": "leaderboard_costs",
        "board": board.name,
        "entry": entry.name,
        "settings": settings_of(stage, entry),
        "baseline_settings": settings_of(stage, baseline),
        "base": board.base,
        "ratio": cost.ratio,
        "low": cost.low,
        "high": cost.high,
        "unit": "seconds of a step over the baseline's",
        "rounds": rounds,
        "steps": STEPS,
        "machine": cost.machine,
        "date": datetime.date.today().isoformat(),
        "commit": by["commit"],
    }
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
    return cost


def _step(board: Board, stage: Stage, entry: Entry) -> tuple[float, dict[str, Any]]:
    """Seconds of a token of the entry's own run, of few steps and with nothing validated or observed, and what
    trained it. Every entry has the base's tokens a step."""
    values = {
        **settings_of(stage, entry),
        "training.steps": STEPS,
        "training.validate_every": 0,
        "training.checkpoint_every": 0,
        "data.validation_tokens": lookup(board.base, "data.sequence_length") or 128,
    }
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "configuration.json", Path(folder) / "run"
        base = {key: value for key, value in board.base.items() if key != "observe"}
        file.write_text(json.dumps(base), encoding="utf-8")
        overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        command = [native_command(), "train", str(file), *overrides, "--run", str(run)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["nothing"]
            raise RequestError(f"the entry {entry.name} must train, got: {lines[-1]}")
        summary = parse((run / "summary.json").read_bytes())
    speed = number(summary["tokens_per_second"])
    if not speed:
        raise RequestError(f"the entry {entry.name} must have a speed, got none")
    return 1 / speed, summary["trained_by"][-1]
