"""What the page of a run or study is made of; report.html puts it in place."""

from __future__ import annotations

import os
import shlex
from typing import Any

from lmhead.formats import count, si
from lmhead.json_trees import flatten, number
from lmhead.page import document
from lmhead.page.labels import key_names, plotted_names
from lmhead.report import figures, findings, words
from lmhead.report.facts import compare, dataset_hash
from lmhead.report.runs import Study
from lmhead.report.tables import arms_table, configuration, runs_table
from lmhead.tables import Code, Table, make_table

RUNS_LISTED_OPEN = 6  # rows up to which a table of runs or of what was searched is open from the start
NOTES_LISTED = 20


def render(study: Study, command_path: str, refresh: int | None = None) -> str:
    """The whole page; `command_path` is the folder as the user named it. With `refresh` it loads itself again every so many seconds."""
    names = [arm.name for arm in study.arms]
    panels = figures.panels(study)
    return document.render(
        "report/report.html",
        {"arms": plotted_names(names), "panels": panels},
        title=f"{study.name} – lmhead report",
        kind=f"lmhead {'study' if study.is_study else 'run'}",
        name=study.name,
        facts=facts(study) + ([f"loads itself again every {refresh} s"] if refresh else []),
        refresh=refresh,
        description=description(study),
        sentences=words.summary(study),
        arms=arms_table(study, compare(study)),
        runs=runs_table(study) if len(study.runs) > 1 else None,
        runs_open=len(study.runs) <= RUNS_LISTED_OPEN,
        comparisons=findings.comparisons_table(study),
        search=findings.search_table(study),
        listed_open=RUNS_LISTED_OPEN,
        search_runs=study.search_runs,
        notes=reading_notes(study),
        names=key_names(names),
        sections=plot_sections(study, panels),
        limits=words.limits(study),
        configuration=configuration(study),
        reproduce=reproduce(study, command_path),
    )


def facts(study: Study) -> list[str]:
    finished = sum(run.finished for run in study.runs)
    found = []
    if study.is_study:
        found.append(f"{count(len(study.arms), 'arm')}, {count(len(study.runs), 'run')}, {finished} finished")
    else:
        found.append(study.runs[0].state)
    for name, label in (("vocab_size", "V\u00a0=\u00a0"), ("hidden_size", "D\u00a0=\u00a0")):
        values = {value for run in study.runs if (value := number(run.summary.get(name))) is not None}
        if len(values) == 1:
            found.append(f"{label}{values.pop():,.0f}")
    tokens = {max(run.log.get("tokens", {}).values(), default=0.0) for run in study.runs if run.finished} - {0.0}
    if len(tokens) == 1:
        found.append(f"{si(tokens.pop())} training tokens" + (" a run" if len(study.runs) > 1 else ""))
    return found


def description(study: Study) -> str:
    found = study.definition.get("description")
    return found if isinstance(found, str) else ""


def reading_notes(study: Study) -> list[str]:
    notes = study.notes + [(f"{run.name}: " if study.is_study else "") + note for run in study.runs for note in run.notes]
    more = [f"and {len(notes) - NOTES_LISTED} more"] if len(notes) > NOTES_LISTED else []
    return notes[:NOTES_LISTED] + more


def plot_sections(study: Study, panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {panel["id"]: panel for panel in panels}
    seeds = max(len(arm.runs) for arm in study.arms)
    lines = "Thin lines are seeds, thick ones the mean over finished seeds. " if seeds > 1 else ""
    dashed = "Dashed runs are not finished. " if any(not run.finished for run in study.runs) else ""
    raw = (
        "; the faint line is the loss of each step"
        if any(line["kind"] == "raw" for panel in panels for line in panel["lines"])
        else ""
    )
    sections = [
        (
            "Loss",
            f"{lines}{dashed}Wall-clock is training time, without validation and measuring. Training loss "
            f"is a moving mean over 2 % of the steps{raw}. The plots open on what follows the first tenth; "
            "double-click one to see it whole.",
            ["validation-tokens", "validation-time", "training-tokens", "training-time"],
        ),
        (
            "What reaches the backbone, and the head's spectrum",
            "The destroyed ratio r is the norm of the part of the logit gradient that never reaches the "
            "backbone, over the norm of the whole; the dotted null is the same for a random subspace of "
            "the same dimension. Below zero excess, the head keeps more than a random subspace would. The "
            "step cosine compares the logit change that backpropagation into the features makes with the "
            "steepest one. The spectrum is that of the head's matrix at the end of each run; singular "
            "values below a ten-millionth of the largest are rounding and are not drawn.",
            ["destroyed-ratio", "destroyed-excess", "step-cosine", "spectrum"],
        ),
    ]
    result = []
    for title, note, names in sections:
        drawn = [by_name[name] for name in names]
        if any(panel["thinned"] for panel in drawn):
            note += (
                f" Long logs are thinned to about {figures.points_per_line(study):,} points a line, "
                "keeping the lowest and highest of each stretch."
            )
        result.append({"title": title, "note": note, "panels": drawn})
    return result


def reproduce(study: Study, command_path: str) -> dict[str, Any]:
    """The commands, and what must be equal for the same numbers."""
    verb, name = ("study", "study.json") if study.is_study else ("train", "config.json")
    option = "--out" if study.is_study else "--run"
    return {
        "step": f"lmhead {verb} {shlex.quote(os.path.join(command_path, name))} {option} runs/again",
        "folder": shlex.quote(command_path.rstrip("/") or "/"),
        "is_study": study.is_study,
        "environment": environment_table(study),
    }


def environment_table(study: Study) -> Table | None:
    rows: list[tuple[str, list[str]]] = []
    for label, name in (
        ("lmhead", "version"),
        ("torch", "torch_version"),
        ("threads", "threads"),
        ("first started", "started"),
        ("last finished", "finished"),
    ):
        values = [str(run.summary[name]) for run in study.runs if isinstance(run.summary.get(name), (str, int, float))]
        if name in ("started", "finished") and values:
            values = [min(values) if name == "started" else max(values)]
        rows.append((label, values))
    rows.append(("dataset (content hash)", [str(found) for run in study.runs if (found := dataset_hash(run)) is not None]))
    paths = [value for run in study.runs for name, value in flatten(run.configuration) if name == "data.path"]
    rows.append(("dataset (folder)", [str(path) for path in paths]))
    shown: list[list[str | Code]] = [[label, Code(", ".join(sorted(set(values))))] for label, values in rows if values]
    return make_table("what it was made with", ["made with", ""], shown, text_columns=2) if shown else None
