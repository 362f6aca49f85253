"""Puts the report together as one HTML file that opens offline and asks nothing of any network.

Everything that comes from a run's files is escaped for the place it goes to (page/text.py). A content
security policy names the page's scripts by their hashes and forbids every request, so that a text that
slipped through could neither run nor call out.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

from lmhead.formats import count, shortened, si
from lmhead.json_trees import flatten, number
from lmhead.page.document import KEY_STAYS_IN_VIEW, document
from lmhead.page.text import plotly_text, script_json, short_labels, swatch, text
from lmhead.report import figures, words
from lmhead.report.facts import compare, dataset_hash
from lmhead.report.runs import Study
from lmhead.report.tables import arms_table, configuration, runs_table, table


def render(study: Study, command_path: str) -> str:
    """The whole page; `command_path` is the folder as the user named it."""
    comparison = compare(study)
    panels = figures.panels(study)
    data = script_json(
        {
            "arms": [
                {"name": plotly_text(shortened(arm.name, 60)), "label": plotly_text(label)}
                for arm, label in zip(study.arms, short_labels([arm.name for arm in study.arms]))
            ],
            "panels": panels,
        }
    )
    sentences = words.summary(study)
    body = [
        heading(study),
        '<section id="summary">',
        f'<p class="lead">{text(sentences[0])}</p>',
        *(f"<p>{text(line)}</p>" for line in sentences[1:]),
        arms_table(study, comparison),
        runs_table(study) if len(study.runs) > 1 else "",
        reading_notes(study),
        "</section>",
        key(study),
        *plot_sections(study, panels),
        limits(study),
        configuration(study),
        reproduce(study, command_path),
    ]
    return document(f"{study.name} – lmhead report", body, data)


def heading(study: Study) -> str:
    finished = sum(run.finished for run in study.runs)
    facts = []
    if study.is_study:
        facts.append(f"{count(len(study.arms), 'arm')}, {count(len(study.runs), 'run')}, {finished} finished")
    else:
        facts.append(study.runs[0].state)
    for name, label in (("vocab_size", "V\u00a0=\u00a0"), ("hidden_size", "D\u00a0=\u00a0")):
        values = {value for run in study.runs if (value := number(run.summary.get(name))) is not None}
        if len(values) == 1:
            facts.append(f"{label}{values.pop():,.0f}")
    tokens = {max(run.log.get("tokens", {}).values(), default=0.0) for run in study.runs if run.finished} - {
        0.0
    }
    if len(tokens) == 1:
        facts.append(f"{si(tokens.pop())} training tokens" + (" a run" if len(study.runs) > 1 else ""))
    description = study.definition.get("description")
    about = f'<p class="soft">{text(description)}</p>' if isinstance(description, str) and description else ""
    return (
        '<header><p class="kind">lmhead '
        f"{'study' if study.is_study else 'run'}</p><h1>{text(study.name)}</h1>"
        f'<p class="facts">{text(" · ".join(facts))}</p>{about}</header>'
    )


def reading_notes(study: Study) -> str:
    notes = study.notes + [
        (f"{run.name}: " if study.is_study else "") + note for run in study.runs for note in run.notes
    ]
    if not notes:
        return ""
    shown = [f"<li>{text(note)}</li>" for note in notes[:20]]
    more = f"<li>and {len(notes) - 20} more</li>" if len(notes) > 20 else ""
    return f'<div class="note">Read with allowances:<ul>{"".join(shown)}{more}</ul></div>'


def key(study: Study) -> str:
    """The key of all plots; it stands apart from them, so that it never covers a line."""
    buttons = [
        f'<button type="button" data-arm="{index}" aria-pressed="true" '
        f'title="{text(arm.name)}">{swatch(index)}'
        f"<span>{text(shortened(arm.name, 48))}</span></button>"
        for index, arm in enumerate(study.arms)
    ]
    if len(study.arms) == 1:
        buttons = []
    buttons.append(
        '<button type="button" class="axis" id="logarithmic-tokens" aria-pressed="false">logarithmic '
        "tokens</button>"
    )
    short = " short" if len(study.arms) <= KEY_STAYS_IN_VIEW else ""
    return (
        f'<div class="key{short}" role="group" aria-label="arms shown in the plots">{"".join(buttons)}</div>'
        "<noscript><p>The plots need JavaScript; the tables do not.</p></noscript>"
    )


def plot_sections(study: Study, panels: list[dict[str, Any]]) -> list[str]:
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
        drawings = []
        for panel in drawn:
            plot = (
                f'<div class="plot" id="{panel["id"]}" role="img" aria-label="{text(panel["title"])}"></div>'
                if panel["lines"]
                else '<div class="empty">Nothing of this was logged.</div>'
            )
            drawings.append(f"<figure><h3>{text(panel['title'])}</h3>{plot}</figure>")
        result.append(
            f'<section><h2>{text(title)}</h2><p class="soft">{text(note)}</p>'
            f'<div class="plots">{"".join(drawings)}</div></section>'
        )
    return result


def limits(study: Study) -> str:
    points = "".join(f"<li>{text(point)}</li>" for point in words.limits(study))
    return f'<section id="limits"><h2>What may not be concluded</h2><ul>{points}</ul></section>'


def reproduce(study: Study, command_path: str) -> str:
    """The commands, and what must be equal for the same numbers."""
    folder = shlex.quote(command_path.rstrip("/") or "/")
    if study.is_study:
        step = f"lmhead study {shlex.quote(os.path.join(command_path, 'study.json'))} --out runs/again"
        source = (
            "The study as run is <code>study.json</code> in its folder, and above. This runs it again, in a "
            "new folder:"
        )
    else:
        step = f"lmhead train {shlex.quote(os.path.join(command_path, 'config.json'))} --run runs/again"
        source = (
            "The complete configuration is <code>config.json</code> in the run's folder, and above. This "
            "runs it again, in a new folder:"
        )
    facts = [
        ("lmhead", "version"),
        ("torch", "torch_version"),
        ("threads", "threads"),
        ("first started", "started"),
        ("last finished", "finished"),
    ]
    rows = []
    for label, name in facts:
        values = [
            str(run.summary[name])
            for run in study.runs
            if isinstance(run.summary.get(name), (str, int, float))
        ]
        if name in ("started", "finished") and values:
            values = [min(values) if name == "started" else max(values)]
        if values:
            rows.append([text(label), f"<code>{text(', '.join(sorted(set(values))))}</code>"])
    hashes = sorted({str(found) for run in study.runs if (found := dataset_hash(run)) is not None})
    if hashes:
        rows.append(["dataset (content hash)", f"<code>{text(', '.join(hashes))}</code>"])
    paths = sorted(
        {
            str(value)
            for run in study.runs
            for name, value in flatten(run.configuration)
            if name == "data.path"
        }
    )
    if paths:
        rows.append(["dataset (folder)", f"<code>{text(', '.join(paths))}</code>"])
    environment = (
        table(["made with", ""], rows, text_columns=2, label="what it was made with") if rows else ""
    )
    return (
        f'<section id="reproduce"><h2>How to reproduce it</h2><p>{source}</p>'
        f"<pre>{text(step)}\nlmhead report runs/again</pre><p>This page was written by <code>lmhead report "
        f"{text(folder)}</code>.</p>{environment}"
        '<p class="soft">The same numbers need the same dataset (compare the content hash), the same '
        "versions and the same number of threads; on another processor the last digits may differ. "
        "Wall-clock depends on the machine and on what else it does.</p></section>"
    )
