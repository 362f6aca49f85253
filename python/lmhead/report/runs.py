"""Reads run and study folders as docs/files.md describes them, trusting nothing in them.

A truncated last line, a missing summary, a null or NaN figure and a run that has only begun are all normal
here: what can be read is read, and what could not be is said in `Run.notes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmhead.command import RequestError
from lmhead.json_trees import flatten, lookup, number, read_lines, read_object


@dataclass
class Run:
    """One run folder. `log` maps a dotted metric to its values by step, in order of step."""

    folder: Path
    name: str
    arm: str
    seed: int | None
    configuration: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    log: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last step that was logged, 0 where none was."""
        return max((next(reversed(values)) for values in self.log.values() if values), default=0)

    @property
    def planned_steps(self) -> int | None:
        steps = number(lookup(self.configuration, "training.steps"))
        return int(steps) if steps is not None and math.isfinite(steps) else None

    @property
    def diverged_at(self) -> int | None:
        """The first step whose loss is not finite, None where every loss is."""
        return next(
            (step for step, loss in self.log.get("loss", {}).items() if not math.isfinite(loss)), None
        )

    @property
    def finished(self) -> bool:
        """Whether the run reached its planned end with finite losses: its last figures are results."""
        return self.summary.get("state") == "finished" and self.diverged_at is None

    @property
    def state(self) -> str:
        """In words: finished, or how far it came."""
        of_planned = f" of {self.planned_steps:,}" if self.planned_steps is not None else ""
        if self.diverged_at is not None:
            return f"diverged at step {self.diverged_at:,}{of_planned}"
        if self.finished:
            return "finished"
        if not self.last_step:
            return "failed before the first step" if self.summary.get("state") == "failed" else "no step logged"
        word = {"stopped": "stopped", "failed": "failed"}.get(str(self.summary.get("state")), "unfinished")
        return f"{word}, step {self.last_step:,}{of_planned}"

    def last(self, metric: str) -> tuple[int, float] | None:
        """The last logged (step, value) of a metric; for validation figures, failing that, the summary's."""
        values = self.log.get(metric)
        if values:
            return next(reversed(values.items()))
        value = number(lookup(self.summary, "final." + metric))
        step = number(lookup(self.summary, "final.step"))
        if value is None:
            return None
        return (int(step) if step is not None and math.isfinite(step) else 0), value


@dataclass
class Arm:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]


@dataclass
class Study:
    """A study folder, or one run as a study of a single arm."""

    folder: Path
    name: str
    arms: list[Arm]
    is_study: bool
    definition: dict[str, Any] = field(default_factory=dict)  # study.json
    statistics: dict[str, Any] = field(default_factory=dict)  # statistics.json
    search_runs: int = 0  # folders of runs that only searched: they choose values and stand for no arm
    notes: list[str] = field(default_factory=list)
    missing_runs: int = 0  # planned runs without a folder

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs]


def read_log(path: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields (step, figures under their dotted names) for every readable line of a log.

    A `loss` of null is NaN, since JSON has no NaN; any other figure that is no number is absent.
    """
    for line in read_lines(path, notes):
        step = line.pop("step", None)
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
            continue
        figures = {key: number(value) for key, value in flatten(line)}
        if line.get("loss", 0) is None:
            figures["loss"] = math.nan
        yield step, {key: value for key, value in figures.items() if value is not None}


def read_run(folder: Path, name: str, arm: str = "", seed: int | None = None) -> Run:
    """Reads one run folder; a step that was logged twice, as after a resume, keeps its later line."""
    run = Run(folder, name, arm or name, seed)
    run.configuration = read_object(folder / "config.json", run.notes)
    run.summary = read_object(folder / "summary.json", run.notes)
    for step, figures in read_log(folder / "log.jsonl", run.notes):
        for key, value in figures.items():
            run.log.setdefault(key, {})[step] = value
    run.log = {key: dict(sorted(values.items())) for key, values in run.log.items()}
    if run.seed is None:
        configured = lookup(run.configuration, "training.seed")
        run.seed = configured if isinstance(configured, int) and not isinstance(configured, bool) else None
    return run


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "log.jsonl", "summary.json"))


def run_folders(study: Path) -> list[Path]:
    """The run folders of a study, in natural order of their names (rank-4 before rank-16). Where values are searched there is
    a folder for them between the arm's and the seed's."""
    return sorted(
        (folder for pattern in ("runs/*/seed-*", "runs/*/*/seed-*") for folder in study.glob(pattern) if is_run(folder)),
        key=lambda folder: natural_order(folder.relative_to(study).as_posix()),
    )


def natural_order(name: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", name)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def read(path: str | Path) -> Study:
    """Reads a run or study folder; RequestError where `path` is neither or holds no run that has begun."""
    folder = Path(path)
    try:
        folder_exists = folder.is_dir()
    except (OSError, ValueError):
        folder_exists = False
    if not folder_exists:
        raise RequestError(f"a run or study folder must be given, got {str(path)!r}, which is no folder")
    name = folder.resolve().name or "run"
    if (folder / "study.json").is_file() or run_folders(folder):
        return read_study(folder, name)
    if is_run(folder):
        run = read_run(folder, name)
        return Study(folder, name, [Arm(run.arm, [run])], is_study=False)
    raise RequestError(
        f"{str(path)!r} must hold a run (config.json, log.jsonl) or a study (study.json, runs/), got neither"
    )


def planned_arms(definition: dict[str, Any]) -> dict[str, str]:
    """The arms that a study names, by their folders; empty where a grid multiplies them or none are named."""
    entries = definition.get("arms")
    if definition.get("grid") or not isinstance(entries, list):
        return {}
    names = [
        entry["name"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]
    return {
        re.sub(rb"[^A-Za-z0-9._-]", b"-", name.encode("utf-8", "replace")).decode(): name for name in names
    }


def read_study(folder: Path, name: str) -> Study:
    """Reads a study; arms come in the order of its definition, of its results, and then of their folders."""
    study = Study(folder, name, [], is_study=True)
    study.definition = read_object(folder / "study.json", study.notes)
    known: dict[str, tuple[str, int | None]] = {}
    for row in read_lines(folder / "results.jsonl", study.notes):
        if isinstance(row.get("run"), str) and isinstance(row.get("arm"), str):
            seed = row.get("seed")
            known.setdefault(row["run"].strip("/"), (row["arm"], seed if type(seed) is int else None))
        if isinstance(row.get("study"), str) and row["study"]:
            study.name = row["study"]
    if isinstance(study.definition.get("name"), str) and study.definition["name"]:
        study.name = study.definition["name"]

    study.statistics = read_object(folder / "statistics.json", study.notes)

    planned = planned_arms(study.definition)
    seeds = study.definition.get("seeds", [0])
    searched = set(study.definition["search"]["seeds"]) if has_search_seeds(study.definition) else set()
    arms = {arm: Arm(arm, []) for arm in planned.values()}
    for run_folder in run_folders(folder):
        relative = run_folder.relative_to(folder)
        arm_folder = relative.parts[1]
        arm, seed = known.get(relative.as_posix(), (planned.get(arm_folder, arm_folder), None))
        if seed is None:
            match = re.fullmatch(r"seed-(-?[0-9]{1,18})", run_folder.name)
            seed = int(match[1]) if match else None
        if len(relative.parts) == 4 and seed in searched:
            study.search_runs += 1
            continue
        arms.setdefault(arm, Arm(arm, [])).runs.append(read_run(run_folder, relative.as_posix(), arm, seed))
    if planned and isinstance(seeds, list):
        study.missing_runs = max(0, len(planned) * len(seeds) - sum(len(arm.runs) for arm in arms.values()))
    order = list(dict.fromkeys([*planned.values(), *(arm for arm, _ in known.values()), *arms]))
    study.arms = [arms[arm] for arm in order if arm in arms and arms[arm].runs]
    if not study.arms:
        got = f"{study.search_runs} that only searched" if study.search_runs else "none"
        raise RequestError(
            f"a study must hold a run that has begun (runs/ARM/seed-S/), got {got} in {str(folder)!r}; "
            "of rows alone lmhead study-document writes what came of it"
        )
    return study


def has_search_seeds(definition: dict[str, Any]) -> bool:
    """Whether the study says on which seeds it searches; what is compared runs on others."""
    search = definition.get("search")
    seeds = search.get("seeds") if isinstance(search, dict) else None
    return isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
