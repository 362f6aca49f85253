"""The report's tables: arms, runs and configurations, each cell escaped where it is made."""

from __future__ import annotations

import json
from typing import Any

from lmhead.formats import ABSENT, duration, fixed, shortened, si
from lmhead.json_trees import number
from lmhead.page.text import pretty, swatch, text
from lmhead.report import words
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
from lmhead.report.runs import Arm, Study

RUNS_LISTED_OPEN = 6  # runs up to which their table is open from the start


def table(
    head: list[str],
    rows: list[list[str]],
    caption: str = "",
    classes: list[str] | None = None,
    text_columns: int = 1,
    label: str = "table",
) -> str:
    """A table of ready HTML cells that scrolls sideways on a narrow screen."""
    body = []
    for number_of_row, row in enumerate(rows):
        row_class = f' class="{classes[number_of_row]}"' if classes and classes[number_of_row] else ""
        cells = "".join(
            f'<td class="text">{cell}</td>' if column < text_columns else f"<td>{cell}</td>"
            for column, cell in enumerate(row)
        )
        body.append(f"<tr{row_class}>{cells}</tr>")
    heads = "".join(
        f'<th scope="col"{" class=text" if column < text_columns else ""}>{cell}</th>'
        for column, cell in enumerate(head)
    )
    caption = f"<caption>{caption}</caption>" if caption else ""
    return (
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{text(label)}"><table>{caption}<thead><tr>{heads}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def mean_cell(mean: Mean | None, digits: int = 4, sign: bool = False) -> str:
    if mean is None:
        return ABSENT
    spread = f" <small>± {fixed(mean.deviation, digits)}</small>" if mean.deviation is not None else ""
    return fixed(mean.value, digits, sign) + spread


def arms_table(study: Study, comparison: Comparison | None) -> str:
    """A row an arm, in the order of the study; columns that no arm has a figure for are left out."""
    ranked = {entry.arm.name: entry for entry in comparison.ranking} if comparison else {}
    best = comparison.ranking[0] if comparison and len(comparison.ranking) > 1 else None
    several = len(study.arms) > 1
    columns: list[tuple[str, list[str]]] = [
        ("arm" if several else "run", []),
        ("seeds", []),
        ("validation loss<small>nats/token</small>", []),
        (
            "above lowest<small>"
            + (words.unit_of(comparison.metric).replace(" per ", "/") if comparison else "")
            + "</small>",
            [],
        ),
        ("bits per byte", []),
        ("top-1 accuracy", []),
        ("destroyed ratio<small>r</small>", []),
        ("null<small>random subspace</small>", []),
        ("excess<small>r − null</small>", []),
        ("step cosine", []),
        ("head<small>parameters</small>", []),
        ("speed<small>tokens/s</small>", []),
        ("training time", []),
        ("state", []),
    ]
    for index, arm in enumerate(study.arms):
        runs = runs_shown(arm)
        entry = ranked.get(arm.name)
        above = ABSENT
        if best and entry:
            above = "lowest" if entry is best else above_lowest(entry, best)
        speed, seconds = summary_mean(runs, "tokens_per_second"), summary_mean(runs, "wall_seconds")
        head_parameters = summary_mean(runs, "parameters_head")
        cells = [
            swatch(index) + text(shortened(arm.name, 60)),
            f"{len(arm.finished)} of {len(arm.runs)}",
            mean_cell(last_mean(runs, LOSS)),
            above,
            mean_cell(last_mean(runs, BITS_PER_BYTE)),
            mean_cell(last_mean(runs, "validation.top1_accuracy")),
            *(
                mean_cell(
                    last_mean(runs, RETENTION + name),
                    4 if name == "step_cosine" else 5,
                    sign=name.endswith("excess"),
                )
                for name in ("destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "step_cosine")
            ),
            si(head_parameters.value if head_parameters else None),
            si(speed.value if speed else None),
            duration(seconds.value if seconds else None),
            text(arm_state(arm)),
        ]
        for column, cell in zip(columns, cells):
            column[1].append(cell)
    kept = [column for column in columns if any(cell not in (ABSENT, "") for cell in column[1])]
    if not several:
        kept = [column for column in kept if not column[0].startswith("above")]
    if all(len(arm.runs) == 1 for arm in study.arms):
        kept = [column for column in kept if column[0] != "seeds"]
    rows = [list(cells) for cells in zip(*(column[1] for column in kept))]
    caption = "Last figures of each arm" if several else "Last figures"
    caption += (
        ", the mean ± standard deviation over its finished seeds."
        if any(len(arm.finished) > 1 for arm in study.arms)
        else "."
    )
    if any(not arm.finished for arm in study.arms) and several:
        caption += " Arms without a finished run show how far they have come and are not ranked."
    classes = ["lowest" if best and arm is best.arm else "" for arm in study.arms]
    return table([column[0] for column in kept], rows, caption, classes, label="results by arm")


def above_lowest(entry: Ranked, best: Ranked) -> str:
    """An arm's distance from the lowest: the paired difference and its interval where seeds are shared."""
    if entry.difference is None:
        return fixed(entry.mean.value - best.mean.value, sign=True)
    interval = entry.difference.interval
    shown = f" <small>[{fixed(interval[0])}, {fixed(interval[1])}]</small>" if interval else ""
    return fixed(entry.difference.mean, sign=True) + shown


def arm_state(arm: Arm) -> str:
    if len(arm.runs) == 1:
        return arm.runs[0].state
    diverged = sum(run.diverged_at is not None for run in arm.runs)
    open_runs = len(arm.runs) - len(arm.finished) - diverged
    parts = [f"{diverged} diverged"] * bool(diverged) + [f"{open_runs} unfinished"] * bool(open_runs)
    return ", ".join(parts) or "finished"


def runs_table(study: Study) -> str:
    rows = []
    for index, arm in enumerate(study.arms):
        for run in arm.runs:
            last = {
                name: run.last(metric)
                for name, metric in (
                    ("loss", LOSS),
                    ("bits", BITS_PER_BYTE),
                    ("ratio", RETENTION + "destroyed_ratio"),
                    ("excess", RETENTION + "destroyed_excess"),
                )
            }
            best = (
                number(run.summary.get("best", {}).get("validation_loss"))
                if isinstance(run.summary.get("best"), dict)
                else None
            )
            memory = number(run.summary.get("peak_memory_bytes"))
            rows.append(
                [
                    swatch(index) + text(shortened(arm.name, 60)),
                    text(ABSENT if run.seed is None else run.seed),
                    text(run.state),
                    *(
                        fixed(
                            last[name][1] if last[name] else None,
                            5 if name in ("ratio", "excess") else 4,
                            sign=name == "excess",
                        )
                        for name in ("loss", "bits", "ratio", "excess")
                    ),
                    fixed(best),
                    si(memory) + ("B" if memory is not None else ""),
                    f"<code>{text(run.name)}</code>",
                ]
            )
    head = [
        "arm",
        "seed",
        "state",
        "validation loss<small>nats/token</small>",
        "bits per byte",
        "destroyed ratio",
        "excess",
        "lowest<small>validation loss</small>",
        "peak memory<small>of the process</small>",
        "folder",
    ]
    opened = " open" if len(rows) <= RUNS_LISTED_OPEN else ""
    body = table(head, rows, label="every run")
    return f"<details{opened}><summary>Every run ({len(rows)})</summary>{body}</details>"


def configuration(study: Study) -> str:
    shared, different = configuration_tables(study)
    parts = ['<section id="configuration"><h2>The complete configuration</h2>']
    if not any(run.configuration for run in study.runs):
        parts.append("<p>No run holds a readable config.json.</p>")
    if different:
        rows = [
            [
                swatch(index) + text(shortened(arm.name, 60)),
                *(f"<code>{text(value_text(values[index]))}</code>" for values in different.values()),
            ]
            for index, arm in enumerate(study.arms)
        ]
        parts.append(
            "<h3>What the arms differ in</h3>"
            + table(
                ["arm", *(f"<code>{text(name)}</code>" for name in different)],
                rows,
                text_columns=1,
                label="what the arms differ in",
            )
        )
    if shared:
        title = "What all runs share" if len(study.runs) > 1 else "Every key"
        rows = [
            [f"<code>{text(name)}</code>", f"<code>{text(value_text(value))}</code>"]
            for name, value in shared.items()
        ]
        body = table(["key", "value"], rows, text_columns=2, label=title)
        parts.append(f"<details open><summary>{title} ({len(rows)} keys)</summary>{body}</details>")
    for title, value in [
        ("study.json, as run", study.definition),
        *(
            (f"config.json of {run.name}" if study.is_study else "config.json", run.configuration)
            for run in (arm.runs[0] for arm in study.arms)
        ),
    ]:
        if value:
            parts.append(f"<details><summary>{text(title)}</summary><pre>{pretty(value)}</pre></details>")
    return "".join(parts) + "</section>"


def value_text(value: Any) -> str:
    return value if value == "absent" else json.dumps(value, ensure_ascii=False)
