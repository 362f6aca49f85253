"""Puts the report together as one HTML file that opens offline and asks nothing of any network.

Everything that comes from a run's files is escaped for the place it goes to: HTML text, Plotly's markup, or JSON in
a script element. A content security policy names the three scripts by their hashes and forbids every request, so
that a text that slipped through could neither run nor call out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shlex
import unicodedata
from pathlib import Path
from typing import Any

from lmhead import report_figures, report_words
from lmhead.report_facts import (BITS_PER_BYTE, LOSS, RETENTION, Comparison, Mean, Ranked, compare, configuration_tables,
                                 dataset_hash, last_mean, runs_shown, summary_mean)
from lmhead.report_runs import Arm, Run, Study, flatten, number
from lmhead.report_words import count, duration, fixed, si

KEY_STAYS_IN_VIEW = 8   # arms up to which the key may follow the reader without hiding the plots
RUNS_LISTED_OPEN = 6    # runs up to which their table is open from the start
LABEL_LENGTH = 18       # letters up to which an arm is named at the end of its line
MARKERS = ("M-5 0A5 5 0 1 1 5 0A5 5 0 1 1-5 0Z", "M-4.5-4.5H4.5V4.5H-4.5Z", "M0-6 6 0 0 6-6 0Z", "M0-5.5 6 5H-6Z",
           "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z", "M0-6.5 1.6-2.2 6.2-2 2.6.9 3.8 5.3 0 2.8-3.8 5.3-2.6.9-6.2-2-1.6-2.2Z",
           "M0 5.5-6-5H6Z", "M-5.5-3-3-5.5 0-2.5 3-5.5 5.5-3 2.5 0 5.5 3 3 5.5 0 2.5-3 5.5-5.5 3-2.5 0Z")


def visible(value: Any) -> str:
    """`value` as text in which control, direction and unpaired characters are spelled out."""
    return "".join(character if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn") or character == "\n"
                   else f"\\u{{{ord(character):x}}}" for character in str(value))


def text(value: Any) -> str:
    """`value` for HTML text or a quoted attribute."""
    return html.escape(visible(value), quote=True)


def plotly_text(value: Any) -> str:
    """`value` for a Plotly text, which reads entities and some tags; on one line."""
    return html.escape(visible(value).replace("\n", " "), quote=False)


def script_json(value: Any) -> str:
    """JSON for a script element: no character in it can end the element or open a comment."""
    encoded = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return encoded.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def pretty(value: Any) -> str:
    return text(json.dumps(value, indent=2, ensure_ascii=False))


def render(study: Study, command_path: str) -> str:
    """The whole page; `command_path` is the folder as the user named it."""
    from plotly.offline import get_plotlyjs

    comparison = compare(study)
    panels = report_figures.panels(study)
    data = script_json({"arms": [{"name": plotly_text(shortened(arm.name, 60)), "label": plotly_text(label)}
                                 for arm, label in zip(study.arms, short_labels(study.arms))], "panels": panels})
    scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), beside("report.js")]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    policy = (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
              "base-uri 'none'; form-action 'none'")
    words = report_words.summary(study)
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(study.name)} – lmhead report</title>", f"<style>\n{beside('report.css')}</style>", "</head>",
        "<body>", "<main>", heading(study),
        '<section id="summary">', f'<p class="lead">{text(words[0])}</p>', *(f"<p>{text(line)}</p>" for line in words[1:]),
        arms_table(study, comparison), runs_table(study) if len(study.runs) > 1 else "", reading_notes(study), "</section>",
        key(study), *plot_sections(study, panels), limits(study), configuration(study), reproduce(study, command_path),
        "</main>", f'<script type="application/json" id="lmhead-data">{data}</script>',
        *(f"<script>{script}</script>" for script in scripts), "</body>", "</html>", ""])


def beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


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
    tokens = {max(run.log.get("tokens", {}).values(), default=0.0) for run in study.runs if run.finished} - {0.0}
    if len(tokens) == 1:
        facts.append(f"{si(tokens.pop())} training tokens" + (" a run" if len(study.runs) > 1 else ""))
    return (f'<header><p class="kind">lmhead {"study" if study.is_study else "run"}</p><h1>{text(study.name)}</h1>'
            f'<p class="facts">{text(" · ".join(facts))}</p></header>')


def swatch(index: int) -> str:
    marker = MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]
    return (f'<svg class="swatch" viewBox="-15 -6 30 12" style="color:var(--arm-{index % 8})" aria-hidden="true">'
            f'<line x1="-15" x2="15"/><path d="{marker}"/></svg>')


def table(head: list[str], rows: list[list[str]], caption: str = "", classes: list[str] | None = None,
          text_columns: int = 1, label: str = "table") -> str:
    """A table of ready HTML cells that scrolls sideways on a narrow screen."""
    body = []
    for number_of_row, row in enumerate(rows):
        row_class = f' class="{classes[number_of_row]}"' if classes and classes[number_of_row] else ""
        cells = "".join(f'<td class="text">{cell}</td>' if column < text_columns else f"<td>{cell}</td>"
                        for column, cell in enumerate(row))
        body.append(f"<tr{row_class}>{cells}</tr>")
    heads = "".join(f'<th scope="col"{" class=text" if column < text_columns else ""}>{cell}</th>'
                    for column, cell in enumerate(head))
    caption = f"<caption>{caption}</caption>" if caption else ""
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}"><table>{caption}<thead><tr>{heads}'
            f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>")


def mean_cell(mean: Mean | None, digits: int = 4, sign: bool = False) -> str:
    if mean is None:
        return "–"
    spread = f" <small>± {fixed(mean.deviation, digits)}</small>" if mean.deviation is not None else ""
    return fixed(mean.value, digits, sign) + spread


def arms_table(study: Study, comparison: Comparison | None) -> str:
    """A row an arm, in the order of the study; columns that no arm has a figure for are left out."""
    ranked = {entry.arm.name: entry for entry in comparison.ranking} if comparison else {}
    best = comparison.ranking[0] if comparison and len(comparison.ranking) > 1 else None
    several = len(study.arms) > 1
    columns: list[tuple[str, list[str]]] = [("arm" if several else "run", []), ("seeds", []),
        ("validation loss<small>nats/token</small>", []), ("above lowest<small>" + (
            report_words.unit_of(comparison.metric).replace(" per ", "/") if comparison else "") + "</small>", []),
        ("bits per byte", []), ("top-1 accuracy", []), ("destroyed ratio<small>r</small>", []),
        ("null<small>random subspace</small>", []), ("excess<small>r − null</small>", []), ("step cosine", []),
        ("head<small>parameters</small>", []), ("speed<small>tokens/s</small>", []), ("training time", []), ("state", [])]
    for index, arm in enumerate(study.arms):
        runs = runs_shown(arm)
        entry = ranked.get(arm.name)
        above = "–"
        if best and entry:
            above = "lowest" if entry is best else above_lowest(entry, best)
        speed, seconds = summary_mean(runs, "tokens_per_second"), summary_mean(runs, "wall_seconds")
        head_parameters = summary_mean(runs, "parameters_head")
        cells = [swatch(index) + text(shortened(arm.name, 60)), f"{len(arm.finished)} of {len(arm.runs)}",
                 mean_cell(last_mean(runs, LOSS)), above,
                 mean_cell(last_mean(runs, BITS_PER_BYTE)), mean_cell(last_mean(runs, "validation.top1_accuracy")),
                 *(mean_cell(last_mean(runs, RETENTION + name), 4 if name == "step_cosine" else 5, sign=name.endswith("excess"))
                   for name in ("destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "step_cosine")),
                 si(head_parameters.value if head_parameters else None), si(speed.value if speed else None),
                 duration(seconds.value if seconds else None), text(arm_state(arm))]
        for column, cell in zip(columns, cells):
            column[1].append(cell)
    kept = [column for column in columns if any(cell not in ("–", "") for cell in column[1])]
    if not several:
        kept = [column for column in kept if not column[0].startswith("above")]
    if all(len(arm.runs) == 1 for arm in study.arms):
        kept = [column for column in kept if column[0] != "seeds"]
    rows = [list(cells) for cells in zip(*(column[1] for column in kept))]
    caption = ("Last figures of each arm" if several else "Last figures")
    caption += ", the mean ± standard deviation over its finished seeds." if any(len(arm.finished) > 1 for arm in study.arms) \
        else "."
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
            last = {name: run.last(metric) for name, metric in (
                ("loss", LOSS), ("bits", BITS_PER_BYTE), ("ratio", RETENTION + "destroyed_ratio"),
                ("excess", RETENTION + "destroyed_excess"))}
            best = number(run.summary.get("best", {}).get("validation_loss")) if isinstance(run.summary.get("best"), dict) else None
            memory = number(run.summary.get("peak_memory_bytes"))
            rows.append([swatch(index) + text(shortened(arm.name, 60)), text("–" if run.seed is None else run.seed),
                         text(run.state), *(fixed(last[name][1] if last[name] else None, 5 if name in ("ratio", "excess") else 4,
                                                  sign=name == "excess")
                                            for name in ("loss", "bits", "ratio", "excess")),
                         fixed(best), si(memory) + ("B" if memory is not None else ""), f"<code>{text(run.name)}</code>"])
    head = ["arm", "seed", "state", "validation loss<small>nats/token</small>", "bits per byte", "destroyed ratio", "excess",
            "lowest<small>validation loss</small>", "peak memory", "folder"]
    opened = " open" if len(rows) <= RUNS_LISTED_OPEN else ""
    return f"<details{opened}><summary>Every run ({len(rows)})</summary>{table(head, rows, label='every run')}</details>"


def reading_notes(study: Study) -> str:
    notes = study.notes + [(f"{run.name}: " if study.is_study else "") + note for run in study.runs for note in run.notes]
    if not notes:
        return ""
    shown = [f"<li>{text(note)}</li>" for note in notes[:20]]
    more = f"<li>and {len(notes) - 20} more</li>" if len(notes) > 20 else ""
    return f'<div class="note">Read with allowances:<ul>{"".join(shown)}{more}</ul></div>'


def key(study: Study) -> str:
    """The key of all plots; it stands apart from them, so that it never covers a line."""
    buttons = [f'<button type="button" data-arm="{index}" aria-pressed="true" title="{text(arm.name)}">{swatch(index)}'
               f"<span>{text(shortened(arm.name, 48))}</span></button>" for index, arm in enumerate(study.arms)]
    if len(study.arms) == 1:
        buttons = []
    buttons.append('<button type="button" class="axis" id="logarithmic-tokens" aria-pressed="false">logarithmic tokens</button>')
    short = " short" if len(study.arms) <= KEY_STAYS_IN_VIEW else ""
    return (f'<div class="key{short}" role="group" aria-label="arms shown in the plots">{"".join(buttons)}</div>'
            "<noscript><p>The plots need JavaScript; the tables do not.</p></noscript>")


def plot_sections(study: Study, panels: list[dict[str, Any]]) -> list[str]:
    by_name = {panel["id"]: panel for panel in panels}
    seeds = max(len(arm.runs) for arm in study.arms)
    lines = "Thin lines are seeds, thick ones the mean over finished seeds. " if seeds > 1 else ""
    dashed = "Dashed runs are not finished. " if any(not run.finished for run in study.runs) else ""
    raw = "; the faint line is the loss of each step" if any(
        line["kind"] == "raw" for panel in panels for line in panel["lines"]) else ""
    sections = [
        ("Loss", f"{lines}{dashed}Wall-clock is training time, without validation and measuring. Training loss is a moving "
                 f"mean over 2 % of the steps{raw}. The plots open on what follows the first tenth; double-click one to see it whole.",
         ["validation-tokens", "validation-time", "training-tokens", "training-time"]),
        ("What reaches the backbone, and the head's spectrum", "The destroyed ratio r is the norm of the part of the logit gradient that never reaches "
         "the backbone, over the norm of the whole; the dotted null is the same for a random subspace of the same dimension. "
         "Below zero excess, the head keeps more than a random subspace would. The step cosine compares the logit change "
         "that backpropagation into the features makes with the steepest one. The spectrum is that of the head's matrix at "
         "the end of each run; singular values below a ten-millionth of the largest are rounding and are not drawn.",
         ["destroyed-ratio", "destroyed-excess", "step-cosine", "spectrum"])]
    result = []
    for title, note, names in sections:
        drawn = [by_name[name] for name in names]
        if any(panel["thinned"] for panel in drawn):
            note += (f" Long logs are thinned to about {report_figures.points_per_line(study):,} points a line, keeping the "
                     "lowest and highest of each stretch.")
        figures = []
        for panel in drawn:
            plot = f'<div class="plot" id="{panel["id"]}" role="img" aria-label="{text(panel["title"])}"></div>' \
                if panel["lines"] else '<div class="empty">Nothing of this was logged.</div>'
            figures.append(f"<figure><h3>{text(panel['title'])}</h3>{plot}</figure>")
        result.append(f'<section><h2>{text(title)}</h2><p class="soft">{text(note)}</p>'
                      f'<div class="plots">{"".join(figures)}</div></section>')
    return result


def limits(study: Study) -> str:
    points = "".join(f"<li>{text(point)}</li>" for point in report_words.limits(study))
    return f'<section id="limits"><h2>What may not be concluded</h2><ul>{points}</ul></section>'


def configuration(study: Study) -> str:
    shared, different = configuration_tables(study)
    parts = ['<section id="configuration"><h2>The complete configuration</h2>']
    if not any(run.configuration for run in study.runs):
        parts.append("<p>No run holds a readable config.json.</p>")
    if different:
        rows = [[swatch(index) + text(shortened(arm.name, 60)),
                 *(f"<code>{text(value_text(values[index]))}</code>" for values in different.values())]
                for index, arm in enumerate(study.arms)]
        parts.append("<h3>What the arms differ in</h3>" + table(["arm", *(f"<code>{text(name)}</code>" for name in different)],
                                                               rows, text_columns=1, label="what the arms differ in"))
    if shared:
        title = "What all runs share" if len(study.runs) > 1 else "Every key"
        rows = [[f"<code>{text(name)}</code>", f"<code>{text(value_text(value))}</code>"] for name, value in shared.items()]
        body = table(["key", "value"], rows, text_columns=2, label=title)
        parts.append(f"<details open><summary>{title} ({len(rows)} keys)</summary>{body}</details>")
    for title, value in [("study.json, as run", study.definition),
                         *((f"config.json of {run.name}" if study.is_study else "config.json", run.configuration)
                           for run in (arm.runs[0] for arm in study.arms))]:
        if value:
            parts.append(f"<details><summary>{text(title)}</summary><pre>{pretty(value)}</pre></details>")
    return "".join(parts) + "</section>"


def value_text(value: Any) -> str:
    return value if value == "absent" else json.dumps(value, ensure_ascii=False)


def reproduce(study: Study, command_path: str) -> str:
    """The commands, and what must be equal for the same numbers."""
    folder = shlex.quote(command_path.rstrip("/") or "/")
    if study.is_study:
        step = f"lmhead study {shlex.quote(os.path.join(command_path, 'study.json'))}"
        source = "The study as run is <code>study.json</code> in its folder, and above. With its <code>runs/</code> gone, this runs it again:"
    else:
        step = f"lmhead train {shlex.quote(os.path.join(command_path, 'config.json'))}"
        source = "The complete configuration is <code>config.json</code> in the run's folder, and above. This runs it again:"
    facts = [("lmhead", "version"), ("torch", "torch_version"), ("threads", "threads"), ("first started", "started"),
             ("last finished", "finished")]
    rows = []
    for label, name in facts:
        values = [str(run.summary[name]) for run in study.runs if isinstance(run.summary.get(name), (str, int, float))]
        if name in ("started", "finished") and values:
            values = [min(values) if name == "started" else max(values)]
        if values:
            rows.append([text(label), f"<code>{text(', '.join(sorted(set(values))))}</code>"])
    hashes = sorted({str(found) for run in study.runs if (found := dataset_hash(run)) is not None})
    if hashes:
        rows.append(["dataset (content hash)", f"<code>{text(', '.join(hashes))}</code>"])
    paths = sorted({str(value) for run in study.runs for name, value in flatten(run.configuration) if name == "data.path"})
    if paths:
        rows.append(["dataset (folder)", f"<code>{text(', '.join(paths))}</code>"])
    environment = table(["made with", ""], rows, text_columns=2, label="what it was made with") if rows else ""
    return (f'<section id="reproduce"><h2>How to reproduce it</h2><p>{source}</p>'
            f"<pre>{text(step)}\nlmhead report {text(folder)}</pre>{environment}"
            '<p class="soft">The same numbers need the same dataset (compare the content hash), the same versions and the same '
            "number of threads; on another processor the last digits may differ. Wall-clock depends on the machine and on what "
            "else it does.</p></section>")


def shortened(name: str, length: int) -> str:
    """`name` with its middle left out where it is longer than `length`: arms often differ at their ends."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return name[:head] + "…" + name[-(length - 1 - head):]


def short_labels(arms: list[Arm]) -> list[str]:
    """Names for the ends of lines: the shortest of a few ways of cutting that keeps every two arms apart."""
    names = [arm.name for arm in arms]
    without_path = [re.sub(r"(^|[\s,;])[\w.]*\.(?=\w+=)", r"\1", name) for name in names]  # head.rank=4 is rank=4
    words = [re.findall(r"[^\s,;/]+[\s,;/]*", name) for name in without_path]
    common = set.intersection(*(set(parts) for parts in words)) if len(arms) > 1 else set()
    without_common = ["".join(part for part in parts if part not in common).strip(" ,;/") for parts in words]
    for candidate in ([shortened(name, LABEL_LENGTH) for name in without_common], without_common, without_path):
        if all(candidate) and len(set(candidate)) == len(candidate):
            return candidate
    return names
