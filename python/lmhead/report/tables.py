"""The report's tables: arms and runs with their last figures, and what their configurations differ in."""

from __future__ import annotations

import json
from typing import Any

from lmhead.formats import ABSENT, duration, fixed, shortened, si
from lmhead.json_trees import lookup, number
from lmhead.report.facts import (
    BITS_PER_BYTE,
    LOSS,
    RETENTION,
    Comparison,
    Mean,
    Ranked,
    configuration_tables,
    last_mean,
    runs_shown,
    summary_mean,
)
from lmhead.report.runs import Arm, Run, Study
from lmhead.report.words import unit_of
from lmhead.tables import Cell, Code, Table, make_table


def mean_cell(mean: Mean | None, decimals: int = 4, sign: bool = False) -> Cell:
    if mean is None:
        return Cell(ABSENT)
    spread = f"± {fixed(mean.deviation, decimals)}" if mean.deviation is not None else ""
    return Cell(fixed(mean.value, decimals, sign), spread)


def name_cell(index: int, arm: Arm) -> Cell:
    return Cell(shortened(arm.name, 60), arm=index)


def arms_table(study: Study, comparison: Comparison | None) -> Table:
    """A row an arm, in the order of the study; columns that no arm has a figure for are left out."""
    ranked = {entry.arm.name: entry for entry in comparison.ranking} if comparison else {}
    best = comparison.ranking[0] if comparison and len(comparison.ranking) > 1 else None
    several = len(study.arms) > 1
    head = [
        Cell("arm" if several else "run"),
        Cell("seeds"),
        Cell("validation loss", "nats/token"),
        Cell("above lowest", unit_of(comparison.metric).replace(" per ", "/") if comparison else ""),
        Cell("bits per byte"),
        Cell("top-1 accuracy"),
        Cell("destroyed ratio", "r"),
        Cell("null", "random subspace"),
        Cell("excess", "r − null"),
        Cell("step cosine"),
        Cell("head", "parameters"),
        Cell("speed", "tokens/s"),
        Cell("training time"),
        Cell("state"),
    ]
    rows = [arm_row(index, arm, ranked.get(arm.name), best) for index, arm in enumerate(study.arms)]
    kept = [column for column in range(len(head)) if any(row[column].words not in (ABSENT, "") for row in rows)]
    if not several:
        kept.remove(3) if 3 in kept else None
    if all(len(arm.runs) == 1 for arm in study.arms):
        kept = [column for column in kept if head[column].words != "seeds"]
    caption = "Last figures of each arm" if several else "Last figures"
    caption += (
        ", the mean ± standard deviation over its finished seeds."
        if any(len(arm.finished) > 1 for arm in study.arms)
        else "."
    )
    if any(not arm.finished for arm in study.arms) and several:
        caption += " Arms without a finished run show how far they have come and are not ranked."
    return Table(
        "results by arm",
        [head[column] for column in kept],
        [[row[column] for column in kept] for row in rows],
        caption,
        strong_rows={index for index, arm in enumerate(study.arms) if best and arm is best.arm},
    )


def arm_row(index: int, arm: Arm, entry: Ranked | None, best: Ranked | None) -> list[Cell]:
    runs = runs_shown(arm)
    above = Cell(ABSENT)
    if best and entry:
        above = Cell("lowest") if entry is best else above_lowest(entry, best)
    speed, seconds = summary_mean(runs, "tokens_per_second"), summary_mean(runs, "wall_seconds")
    head_parameters = summary_mean(runs, "parameters_head")
    return [
        name_cell(index, arm),
        Cell(f"{len(arm.finished)} of {len(arm.runs)}"),
        mean_cell(last_mean(runs, LOSS)),
        above,
        mean_cell(last_mean(runs, BITS_PER_BYTE)),
        mean_cell(last_mean(runs, "validation.top1_accuracy")),
        mean_cell(last_mean(runs, RETENTION + "destroyed_ratio"), 5),
        mean_cell(last_mean(runs, RETENTION + "null_destroyed_ratio"), 5),
        mean_cell(last_mean(runs, RETENTION + "destroyed_excess"), 5, sign=True),
        mean_cell(last_mean(runs, RETENTION + "step_cosine")),
        Cell(si(head_parameters.value if head_parameters else None)),
        Cell(si(speed.value if speed else None)),
        Cell(duration(seconds.value if seconds else None)),
        Cell(arm_state(arm)),
    ]


def above_lowest(entry: Ranked, best: Ranked) -> Cell:
    """An arm's distance from the lowest: the paired difference and its interval where seeds are shared."""
    if entry.difference is None:
        return Cell(fixed(entry.mean.value - best.mean.value, sign=True))
    interval = entry.difference.interval
    shown = f"[{fixed(interval[0])}, {fixed(interval[1])}]" if interval else ""
    return Cell(fixed(entry.difference.mean, sign=True), shown)


def arm_state(arm: Arm) -> str:
    if len(arm.runs) == 1:
        return arm.runs[0].state
    diverged = sum(run.diverged_at is not None for run in arm.runs)
    open_runs = len(arm.runs) - len(arm.finished) - diverged
    parts = [f"{diverged} diverged"] * bool(diverged) + [f"{open_runs} unfinished"] * bool(open_runs)
    return ", ".join(parts) or "finished"


def runs_table(study: Study) -> Table:
    head = [
        Cell("arm"),
        Cell("seed"),
        Cell("state"),
        Cell("validation loss", "nats/token"),
        Cell("bits per byte"),
        Cell("destroyed ratio"),
        Cell("excess"),
        Cell("lowest", "validation loss"),
        Cell("peak memory", "of the process"),
        Cell("folder"),
    ]
    rows = [run_row(index, arm, run) for index, arm in enumerate(study.arms) for run in arm.runs]
    return Table("every run", head, rows)


def run_row(index: int, arm: Arm, run: Run) -> list[Cell]:
    def last(metric: str, decimals: int = 4, sign: bool = False) -> Cell:
        found = run.last(metric)
        return Cell(fixed(found[1] if found else None, decimals, sign))

    memory = number(run.summary.get("peak_memory_bytes"))
    return [
        name_cell(index, arm),
        Cell(ABSENT if run.seed is None else str(run.seed)),
        Cell(run.state),
        last(LOSS),
        last(BITS_PER_BYTE),
        last(RETENTION + "destroyed_ratio", 5),
        last(RETENTION + "destroyed_excess", 5, sign=True),
        Cell(fixed(number(lookup(run.summary, "best.validation_loss")))),
        Cell(si(memory) + ("B" if memory is not None else "")),
        Cell(Code(run.name)),
    ]


def differing_table(study: Study, different: dict[str, list[Any]]) -> Table:
    """What the arms differ in, from `configuration_tables`."""
    rows = [
        [name_cell(index, arm), *(Cell(Code(value_text(values[index]))) for values in different.values())]
        for index, arm in enumerate(study.arms)
    ]
    return make_table("what the arms differ in", ["arm", *map(Code, different)], rows)


def shared_table(label: str, shared: dict[str, Any]) -> Table:
    rows = [[Code(name), Code(value_text(value))] for name, value in shared.items()]
    return make_table(label, ["key", "value"], rows, text_columns=2)


def configuration(study: Study) -> dict[str, Any]:
    """The tables of what the arms differ in and share (None where there is nothing), and the files whole."""
    shared, different = configuration_tables(study)
    files = [("study.json, as run", study.definition)]
    for arm in study.arms:
        name = f"config.json of {arm.runs[0].name}" if study.is_study else "config.json"
        files.append((name, arm.runs[0].configuration))
    title = "What all runs share" if len(study.runs) > 1 else "Every key"
    return {
        "readable": any(run.configuration for run in study.runs),
        "different": differing_table(study, different) if different else None,
        "shared": shared_table(title, shared) if shared else None,
        "files": [(name, json.dumps(value, indent=2, ensure_ascii=False)) for name, value in files if value],
    }


def value_text(value: Any) -> str:
    return value if value == "absent" else json.dumps(value, ensure_ascii=False)
