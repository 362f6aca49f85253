"""What a measurement's page is made of: tables, plots, the formulae, and what may and may not be concluded."""

from __future__ import annotations

import json
from typing import Any

from lmhead.formats import count, fixed, shortened
from lmhead.json_trees import lookup, number
from lmhead.measurement import figures, words
from lmhead.page import document
from lmhead.page.labels import key_names, plotted_names
from lmhead.tables import Cell, Table, make_table

TABLES_IN_FULL = 6  # models whose groups are listed below the plots

# Key, heading, digits after the point (None: a count), signed.
Column = tuple[str, Cell, int | None, bool]
RETENTION_COLUMNS: list[Column] = [
    ("step", Cell("step"), None, False),
    ("hidden_size", Cell("D"), None, False),
    ("vocab_size", Cell("V"), None, False),
    ("tokens", Cell("tokens"), None, False),
    ("quality.loss", Cell("loss", "nats per token"), 4, False),
    ("quality.bits_per_byte", Cell("bits per byte"), 4, False),
    ("quality.top1_accuracy", Cell("top-1"), 3, False),
    ("gradient_retention.destroyed_ratio", Cell("destroyed", "ratio r"), 4, False),
    ("gradient_retention.null_destroyed_ratio", Cell("null", "random subspace"), 4, False),
    ("gradient_retention.destroyed_excess", Cell("excess", "r − null"), 4, True),
    ("token_breakdown.standard_error.destroyed_ratio", Cell("± of r", "over documents"), 4, False),
    ("gradient_retention.retained_energy", Cell("retained", "energy"), 4, False),
]
SPECTRUM_COLUMNS: list[Column] = [
    ("token_breakdown.mean", Cell("retained", "mean over tokens"), 4, False),
    ("gradient_retention.visible_cosine", Cell("visible cosine"), 4, False),
    ("gradient_retention.step_cosine", Cell("step cosine"), 4, False),
    ("local_retention.destroyed_ratio", Cell("destroyed", "by local maps"), 4, False),
    ("local_retention.null_destroyed_ratio", Cell("null", "of local maps"), 4, False),
    ("gradient_spectrum.tokens", Cell("tokens", "of the spectrum"), None, False),
    ("gradient_spectrum.unresolved_energy", Cell("unresolved", "by the sketch"), 3, False),
    ("gradient_spectrum.avoidable_energy", Cell("avoidable", "optimistic"), 3, True),
    ("gradient_spectrum.cross_validated_avoidable_energy", Cell("avoidable", "cross-validated"), 3, True),
    ("gradient_spectrum.effective_rank", Cell("effective rank", "of G"), 1, False),
    ("gradient_retention.head_rank", Cell("head rank"), None, False),
    ("gradient_retention.head_condition", Cell("condition"), 1, False),
]


def render(measurement: dict[str, Any]) -> str:
    models = measurement["models"]
    names = [model["model"] for model in models]
    sections = figures.sections(models)
    tables = [
        columns_table(models, RETENTION_COLUMNS, "figures"),
        columns_table(models, SPECTRUM_COLUMNS, "more figures"),
    ]
    drawn = [(title, note, [panel for panel in panels if panel["lines"]]) for title, note, panels in sections]
    return document.render(
        "measurement/measurement.html",
        {"arms": plotted_names(names), "panels": [panel for _, _, panels in sections for panel in panels]},
        title=f"{title_of(models)} – lmhead measurement",
        kind="lmhead measurement",
        name=title_of(models),
        facts=facts(measurement),
        description="",
        sentences=words.summary(models),
        tables=[table for table in tables if table],
        names=key_names(names),
        sections=[{"title": title, "note": note, "panels": panels} for title, note, panels in drawn if panels],
        groups=group_tables(models),
        whole=json.dumps(without_lists(measurement), indent=2, ensure_ascii=False),
    )


def facts(measurement: dict[str, Any]) -> list[str]:
    source = measurement["text"] or ([measurement["tokens_file"]] if measurement["tokens_file"] else ["exported features"])
    kinds = sorted({model["quantization"] for model in measurement["models"] if model.get("quantization")})
    return [
        count(len(measurement["models"]), "model"),
        "on " + ", ".join(map(str, source[:3])) + (" …" if len(source) > 3 else ""),
        *(f"weights undone from {kind}" for kind in kinds),
    ]


def title_of(models: list[dict[str, Any]]) -> str:
    first = words.short_name(models[0])
    return first if len(models) == 1 else f"{first} and {count(len(models) - 1, 'other')}"


def figure(value: Any, decimals: int | None, signed: bool = False) -> str:
    return fixed(number(value), decimals or 0, signed)


def columns_table(models: list[dict[str, Any]], all_columns: list[Column], label: str) -> Table | None:
    """A row a model, with the columns that any of them has a figure in; nothing where none has."""
    columns = [column for column in all_columns if any(lookup(model, column[0]) is not None for model in models)]
    if not columns:
        return None
    rows = [
        [
            Cell(shortened(model["model"], 48), arm=index),
            *(Cell(figure(lookup(model, key), decimals, signed)) for key, _, decimals, signed in columns),
        ]
        for index, model in enumerate(models)
    ]
    return Table(label, [Cell("model"), *(heading for _, heading, _, _ in columns)], rows)


def group_tables(models: list[dict[str, Any]]) -> list[tuple[str, Table]]:
    """Of every model its groups of tokens, each a name and a table."""
    found = []
    for model in models[:TABLES_IN_FULL]:
        for key, title in (
            ("by_frequency", "target frequency"),
            ("by_probability", "probability of the target"),
            ("by_position", "tokens of context"),
        ):
            groups = lookup(model, f"token_breakdown.{key}")
            if not isinstance(groups, list):
                continue
            rows = [
                [
                    str(group["group"]),
                    figure(group["tokens"], None),
                    *(figure(group[name], 4) for name in ("energy_share", "retained_energy", "loss")),
                ]
                for group in groups
            ]
            found.append((model["model"], make_table(title, [title, "tokens", "energy share", "retained energy", "loss"], rows)))
    return found


def without_lists(value: Any) -> Any:
    """The value with long lists of numbers cut, which are for plots."""
    if isinstance(value, dict):
        return {name: without_lists(entry) for name, entry in value.items()}
    if isinstance(value, list):
        short = [without_lists(entry) for entry in value]
        return short if len(value) <= 12 or isinstance(value[0], (dict, str)) else f"{len(value)} numbers"
    return value
