"""A measurement's page: a table first, then where the logit gradient is lost, its spectrum and the head's, the loss after
logit steps, the formulae, and what may and may not be concluded."""

from __future__ import annotations

import json
from typing import Any

from lmhead.formats import count, fixed, shortened
from lmhead.json_trees import lookup, number
from lmhead.measurement import figures, words
from lmhead.page.document import KEY_STAYS_IN_VIEW, document
from lmhead.page.text import plotly_text, script_json, short_labels, swatch, text
from lmhead.report.tables import table

TABLES_IN_FULL = 6  # models whose groups are listed below the plots

# Key, heading, digits after the point (None: a count), signed.
Column = tuple[str, str, int | None, bool]
RETENTION_COLUMNS: list[Column] = [
    ("step", "step", None, False),
    ("hidden_size", "D", None, False),
    ("vocab_size", "V", None, False),
    ("tokens", "tokens", None, False),
    ("quality.loss", "loss<small>nats per token</small>", 4, False),
    ("quality.bits_per_byte", "bits per byte", 4, False),
    ("quality.top1_accuracy", "top-1", 3, False),
    ("gradient_retention.destroyed_ratio", "destroyed<small>ratio r</small>", 4, False),
    ("gradient_retention.null_destroyed_ratio", "null<small>random subspace</small>", 4, False),
    ("gradient_retention.destroyed_excess", "excess<small>r − null</small>", 4, True),
    ("token_breakdown.standard_error.destroyed_ratio", "± of r<small>over documents</small>", 4, False),
    ("gradient_retention.retained_energy", "retained<small>energy</small>", 4, False),
]
SPECTRUM_COLUMNS: list[Column] = [
    ("token_breakdown.mean", "retained<small>mean over tokens</small>", 4, False),
    ("gradient_retention.visible_cosine", "visible cosine", 4, False),
    ("gradient_retention.step_cosine", "step cosine", 4, False),
    ("gradient_spectrum.tokens", "tokens<small>of the spectrum</small>", None, False),
    ("gradient_spectrum.unresolved_energy", "unresolved<small>by the sketch</small>", 3, False),
    ("gradient_spectrum.avoidable_energy", "avoidable<small>optimistic</small>", 3, True),
    ("gradient_spectrum.cross_validated_avoidable_energy", "avoidable<small>cross-validated</small>", 3, True),
    ("gradient_spectrum.effective_rank", "effective rank<small>of G</small>", 1, False),
    ("gradient_retention.head_rank", "head rank", None, False),
    ("gradient_retention.head_condition", "condition", 1, False),
]


def cell(value: Any, digits: int | None, signed: bool) -> str:
    return fixed(number(value), digits or 0, signed)


def figures_table(models: list[dict[str, Any]]) -> str:
    note = (
        "destroyed: norm of the logit gradient's part outside the head's column space, over the whole norm; null: the "
        "same for a random subspace of the head's rank; below zero excess, the head keeps more than chance would."
    )
    tables = columns_table(models, RETENTION_COLUMNS, "figures") + columns_table(models, SPECTRUM_COLUMNS, "more figures")
    return f'{tables}<p class="soft">{note}</p>'


def columns_table(models: list[dict[str, Any]], all_columns: list[Column], label: str) -> str:
    """A row a model, with the columns that any of them has a figure in; nothing where none has."""
    columns = [column for column in all_columns if any(lookup(model, column[0]) is not None for model in models)]
    if not columns:
        return ""
    rows = [
        [f"{swatch(index)}{text(shortened(model['model'], 48))}"]
        + [cell(lookup(model, key), digits, signed) for key, _, digits, signed in columns]
        for index, model in enumerate(models)
    ]
    return table(["model", *(heading for _, heading, _, _ in columns)], rows, label=label)


def group_tables(models: list[dict[str, Any]]) -> str:
    parts = []
    for model in models[:TABLES_IN_FULL]:
        for key, title in (("by_frequency", "target frequency"), ("by_probability", "probability of the target"),
                           ("by_position", "tokens of context")):
            groups = lookup(model, f"token_breakdown.{key}")
            if not isinstance(groups, list):
                continue
            rows = [[text(group["group"]), cell(group["tokens"], None, False)]
                    + [cell(group[name], 4, False) for name in ("energy_share", "retained_energy", "loss")]
                    for group in groups]
            parts.append(f"<h3>{text(model['model'])}</h3>" + table(
                [title, "tokens", "energy share", "retained energy", "loss"], rows, label=title))
    return f"<details><summary>The groups as tables</summary>{''.join(parts)}</details>" if parts else ""


def heading(measurement: dict[str, Any], models: list[dict[str, Any]]) -> str:
    source = measurement["text"] or ([measurement["tokens_file"]] if measurement["tokens_file"] else ["exported features"])
    facts = [count(len(models), "model"), "on " + ", ".join(map(str, source[:3])) + (" …" if len(source) > 3 else "")]
    return (f'<header><p class="kind">lmhead measurement</p><h1>{text(title_of(models))}</h1>'
            f'<p class="facts">{text(" · ".join(facts))}</p></header>')


def title_of(models: list[dict[str, Any]]) -> str:
    first = words.short_name(models[0])
    return first if len(models) == 1 else f"{first} and {count(len(models) - 1, 'other')}"


def key(models: list[dict[str, Any]]) -> str:
    if len(models) == 1:
        return "<noscript><p>The plots need JavaScript; the tables do not.</p></noscript>"
    buttons = "".join(
        f'<button type="button" data-arm="{index}" aria-pressed="true" title="{text(model["model"])}">'
        f"{swatch(index)}<span>{text(shortened(model['model'], 48))}</span></button>"
        for index, model in enumerate(models))
    short = " short" if len(models) <= KEY_STAYS_IN_VIEW else ""
    return (f'<div class="key{short}" role="group" aria-label="models shown in the plots">{buttons}</div>'
            "<noscript><p>The plots need JavaScript; the tables do not.</p></noscript>")


def plot_section(title: str, note: str, panels: list[dict[str, Any]]) -> str:
    drawn = [panel for panel in panels if panel["lines"]]
    if not drawn:
        return ""
    drawings = "".join(
        f'<figure><h3>{text(panel["title"])}</h3><div class="plot" id="{panel["id"]}" role="img" '
        f'aria-label="{text(panel["title"])}"></div></figure>' for panel in drawn)
    return (f'<section><h2>{text(title)}</h2><p class="soft">{text(note)}</p>'
            f'<div class="plots">{drawings}</div></section>')


def render(measurement: dict[str, Any]) -> str:
    models = measurement["models"]
    names = [model["model"] for model in models]
    sections = figures.sections(models)
    data = script_json({
        "arms": [{"name": plotly_text(shortened(name, 60)), "label": plotly_text(label)}
                 for name, label in zip(names, short_labels(names))],
        "panels": [panel for _, _, panels in sections for panel in panels],
    })
    sentences = words.summary(models)
    body = [
        heading(measurement, models),
        '<section id="summary">',
        f'<p class="lead">{text(sentences[0])}</p>',
        *(f"<p>{text(line)}</p>" for line in sentences[1:]),
        figures_table(models),
        "</section>",
        key(models),
        *(plot_section(*section) for section in sections),
        group_tables(models),
        words.FORMULAE,
        words.CONCLUSIONS,
        "<section><h2>Every figure</h2><details><summary>The measurement as JSON</summary>"
        f"<pre>{text(json.dumps(without_lists(measurement), indent=2, ensure_ascii=False))}</pre></details></section>",
    ]
    return document(f"{title_of(models)} – lmhead measurement", body, data)


def without_lists(value: Any) -> Any:
    """The value with long lists of numbers cut, which are for plots."""
    if isinstance(value, dict):
        return {name: without_lists(entry) for name, entry in value.items()}
    if isinstance(value, list):
        short = [without_lists(entry) for entry in value]
        return short if len(value) <= 12 or isinstance(value[0], (dict, str)) else f"{len(value)} numbers"
    return value
