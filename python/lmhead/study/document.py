"""What came of a study as a Markdown document.

Every number is read from statistics.json, which the native command computes; this file chooses words and places.
"""

from __future__ import annotations

import math
from typing import Any

from lmhead.formats import compact, difference, duration, fixed, p_value
from lmhead.study.markdown import block, code, fenced, image, inline, table, words
from lmhead.tables import Code, Words, listed


def best_values(arm: dict[str, Any]) -> tuple[str | Code, ...]:
    """What the search of an arm found, and which of it lies at an edge; empty where nothing was searched."""
    best: tuple[str | Code, ...] = ()
    for key, value in arm["searched"].items():
        best += (", " if best else "", Code(key), f" {compact(value)}")
    if arm["at_an_edge"]:
        best += (" (at an edge: ", *listed(arm["at_an_edge"]), ")")
    return best


def arms_section(statistics: dict[str, Any]) -> list[str]:
    searched = any(arm["search"] for arm in statistics["arms"])
    rows = []
    for arm in statistics["arms"]:
        best = best_values(arm)
        if arm["search"] and not arm["search_finished"]:
            best += (" (still searched)",)
        notes = [f"{arm['diverged']} diverged"] * bool(arm["diverged"]) + [
            f"{arm['missing']} missing"
        ] * bool(arm["missing"])
        seeds = str(len(arm["seeds"])) + (f" ({', '.join(notes)})" if notes else "")
        row: list[Words] = [arm["arm"], *([best] if searched else []), seeds, fixed(arm["mean"], 4)]
        row += [fixed(arm["standard_deviation"], 4), compact(arm["flops"]), duration(arm["wall_seconds"])]
        rows.append(row)
    unit = f" ({statistics['unit']})" if statistics["unit"] else ""
    head = ["arm", *(["best values found"] if searched else []), "seeds", f"{statistics['outcome']}{unit}"]
    return ["## Arms", "", *table([*head, "s.d.", "training FLOPs", "training time"], rows), ""]


def comparisons_section(statistics: dict[str, Any]) -> list[str]:
    rows = []
    for one in statistics["comparisons"]:
        rows.append(
            [
                f"{one['arm']} − {one['baseline']}",
                str(len(one["seeds"])),
                difference(one.get("mean_difference"), one.get("interval")),
                difference(None, one.get("bootstrap_interval")),
                fixed(one.get("effect_size"), 2),
                p_value(one.get("p_value")),
                p_value(one.get("sign_flip_p")),
                p_value(one.get("holm_p")),
                one["verdict"],
            ]
        )
    if not rows:
        return []
    head = [
        "difference",
        "seeds",
        "mean, 95 % t interval",
        "bootstrap",
        "g",
        "p",
        "p (signs)",
        "p (Holm)",
        "verdict",
    ]
    better = "Higher" if statistics["higher_is_better"] else "Lower"
    margin = statistics["margin"]
    words = f"Paired by seed, arm less baseline. {better} is better"
    words += f"; the smallest difference that would matter was set at {compact(margin)}." if margin else "."
    words += (
        " How each figure is computed, and the rule behind the verdicts: [statistics.md](../statistics.md)."
    )
    return ["## Comparisons", "", *table(head, rows), "", words, ""]


def details_section(statistics: dict[str, Any]) -> list[str]:
    """A table for each baseline: a figure a row, an arm a column."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for one in statistics["comparisons"]:
        if one.get("details"):
            tables.setdefault(one["baseline"], []).append(one)
    if not tables:
        return []
    lines = ["## Where the difference lies", ""]
    for baseline, comparisons in tables.items():
        rows = []
        for figure in dict.fromkeys(line["figure"] for one in comparisons for line in one["details"]):
            found = [next((line for line in one["details"] if line["figure"] == figure), None) for one in comparisons]
            first = next(line for line in found if line)
            row: list[Words] = [Code(figure), fixed(first["baseline_mean"], 4)]
            row += [difference(line["mean_difference"], line["interval"]) if line else "—" for line in found]
            rows.append(row)
        head = ["figure at the end", baseline, *(f"{one['arm']} − {baseline}" for one in comparisons)]
        lines += [*table(head, rows), ""]
    return [
        *lines,
        "Paired by seed, 95 % t intervals, not corrected for the number of figures: these say where to look.",
        "",
    ]


def correlations_section(statistics: dict[str, Any]) -> list[str]:
    """A table for each choice of outcome, step and what is held fixed."""
    tables: dict[Words, list[list[Words]]] = {}
    for one in statistics["correlations"]:
        outcome = statistics["outcome"]
        what = f"The final {outcome}" if one["outcome"] == "final" else f"The progress of {outcome} from there"
        about: tuple[str | Code, ...] = (f"{what} against the figure at step {one['at_step']}",)
        held = [(f"{word} ", *listed(one[word])) for word in ("given", "within") if one[word]]
        for place, part in enumerate(held):
            about += (", " if place else "; held fixed: ", *part)
        about += (":",)
        left_out = f" ({one['left_out']} runs left out)" if one["left_out"] else ""
        tables.setdefault(about, []).append(
            [
                Code(one['predictor']),
                f"{one['settings']} of {one['runs']} runs{left_out}",
                difference(one["rho"], one["interval"]),
                difference(one["partial_rho"], one["partial_interval"]),
                p_value(one["p_value"]),
                p_value(one["holm_p"]),
                one["verdict"],
            ]
        )
    if not tables:
        return []
    head = ["figure", "settings", "Spearman's ρ", "ρ, the rest held fixed", "p", "p (Holm)", "verdict"]
    lines = ["## Correlations", ""]
    for heading, rows in tables.items():
        lines += [inline(heading), "", *table(head, rows), ""]
    return [
        *lines,
        "Over settings, each the mean of its seeds, of searched and confirmed runs alike; 95 % bootstrap"
        " intervals. How each figure is computed, and the rule behind the verdicts:"
        " [statistics.md](../statistics.md).",
        "",
    ]


def beyond_words(reach: list[dict[str, Any]]) -> tuple[str | Code, ...]:
    """How far a point lies outside of what was measured."""
    words: tuple[str | Code, ...] = ()
    for one in reach:
        low, high = one["measured"]
        words += ("; " if words else "", Code(one["quantity"]), f" {compact(one['value'])}")
        measured = f"{compact(low)} to {compact(high)} measured"
        if one["beyond"] == 1:
            words += (f" inside ({measured})",)
        else:
            span = math.log2(high / low)
            words += (
                f" {compact(one['beyond'])} times outside ({measured}: {fixed(math.log2(one['beyond']), 1)} doublings beyond"
                f" {fixed(span, 1)})",
            )
    return words


def slope_words(fit: dict[str, Any]) -> str:
    """What the slopes' intervals allow to say."""
    words = []
    for slope in fit["slopes"]:
        low, high = slope["interval"] or (-math.inf, math.inf)
        way = "rises with" if low > 0 else "falls with" if high < 0 else "no change shown with"
        words.append(f"{way} {slope['predictor']}")
    return "; ".join(words)


def fits_section(statistics: dict[str, Any]) -> list[str]:
    """Of each fit and figure a table of coefficients, an arm a row, and one of what they predict."""
    fits = statistics.get("fits", [])
    if not fits:
        return []
    lines = ["## Fits", ""]
    for fit in fits:
        names = [one["name"] for one in fit["predictors"]]
        for figure in dict.fromkeys(one["figure"] for one in fit["differences"]):
            own = [one for one in fit["differences"] if one["figure"] == figure]
            done = [one for one in own if "lacking" not in one]
            unit = f" ({own[0]['unit']})" if own[0]["unit"] else ""
            heading: Words = ("The difference in ", Code(figure), f"{unit}, linear in ", *listed(names), ":")
            lines += [inline(heading), ""]
            if done:
                lines += [*coefficients_table(done, names), ""]
            if done and fit["predict"]:
                lines += [*predictions_table(done), ""]
            lacking = [one for one in own if "lacking" in one]
            lines += [f"- {words(name_of(one))}: no fit yet: {words(one['lacking'])}." for one in lacking]
            lines += [""] * bool(lacking)
    absent: dict[str, list[str]] = {}
    for one in (one for fit in fits for one in fit["differences"]):
        for gap in one["missing"]:
            arms = absent.setdefault(f"{gap['place']}: {gap['why']}", [])
            arms += [one["arm"]] * (one["arm"] not in arms)
    if absent:
        lines += ["Places that fits lack:", ""]
        lines += [f"- {words(what)} ({words(', '.join(arms))})" for what, arms in absent.items()] + [""]
    return [
        *lines,
        "Least squares over the places of the grid. The constant is the fitted difference at the mean of the places' predictors; a slope is"
        " the change for one more of its predictor, of a log2 for a doubling. 95 % intervals are studentised bootstraps, 10,000 resamples of the seeds within"
        " each place: what other seeds would give at these places, if the form holds. Whether it does: *misfit* is the root mean square of what"
        " the places' means lie off, beside what chance over seeds alone would give; *left out* that of each place predicted from the"
        " others. A prediction outside of what was measured rests on the form alone, which nothing here tests there. How each figure is"
        " computed: [statistics.md](../statistics.md).",
        "",
    ]


def name_of(one: dict[str, Any]) -> str:
    return f"{one['arm']} − {one['baseline']}"


def coefficients_table(fits: list[dict[str, Any]], names: list[str]) -> list[str]:
    rows: list[list[Words]] = []
    for one in fits:
        left = f"{fixed(one['left_out_error'], 4)} ({one['left_out_places']} places)" if one["left_out_error"] is not None else "—"
        rows.append(
            [
                name_of(one),
                str(len(one["points"])),
                difference(one["constant"], one["constant_interval"]),
                *(difference(slope["value"], slope["interval"]) for slope in one["slopes"]),
                f"{fixed(one['residual'], 4)} ({fixed(one['chance'], 4)})",
                left,
                slope_words(one),
            ]
        )
    head = ["difference", "places", "constant", *names, "misfit (by chance)", "left out", "so"]
    return table(head, rows)


def predictions_table(fits: list[dict[str, Any]]) -> list[str]:
    rows: list[list[Words]] = []
    for one in fits:
        for point in one["predictions"]:
            rows.append(
                [
                    name_of(one),
                    point["name"],
                    difference(point["value"], point["interval"]),
                    difference(None, point["without_a_place"]),
                    beyond_words(point["reach"]),
                ]
            )
    return table(["difference", "predicted at", "by the fit", "with a place left out", "beside what was measured"], rows)


def source_section(statistics: dict[str, Any]) -> list[str]:
    source = statistics["source"] or {}
    if not source:
        return []
    lines = ["## The source", ""]
    if source.get("paper") or source.get("claim"):
        lines += [block(": ".join(str(source[key]) for key in ("paper", "claim") if source.get(key))), ""]
    rows = []
    for one in statistics["comparisons"]:
        theirs = one.get("source")
        if not theirs:
            continue
        reported = theirs.get("sign") or difference(theirs.get("difference"), theirs.get("interval"))
        ours = difference(one.get("mean_difference"), one.get("interval"))
        rows.append([f"{one['arm']} − {one['baseline']}", reported, ours, theirs["words"]])
    if rows:
        lines += [*table(["difference", "source", "here", "so this study"], rows), ""]
    return lines


def equal_cost_section(statistics: dict[str, Any]) -> list[str]:
    costs = {"steps": "steps", "tokens": "tokens", "flops": "training FLOPs", "wall_seconds": "training time"}
    rows = []
    for one in statistics["comparisons"]:
        row = [f"{one['arm']} − {one['baseline']}"]
        for key in costs:
            at = one[f"equal_{key}"]
            if at["budget"] is None or "mean_difference" not in at:
                row.append("not comparable")
                continue
            budget = duration(at["budget"]) if key == "wall_seconds" else compact(at["budget"])
            left_out = f"; without seeds {', '.join(map(str, at['left_out']))}" if at["left_out"] else ""
            row.append(f"{difference(at['mean_difference'], at['interval'])} at {budget}{left_out}")
        rows.append(row)
    if not rows:
        return []
    lines = [
        "## At equal cost",
        "",
        *table(["difference", *(f"equal {name}" for name in costs.values())], rows),
        "",
    ]
    lines += [
        "Read from the validation curves at the largest budget that every run of a pair reaches, linearly in the"
    ]
    lines += ["logarithm of the cost. Before its last step a run's learning rate has not yet come down.", ""]
    return lines


def reach_section(statistics: dict[str, Any]) -> list[str]:
    rows = []
    for one in statistics["reach"]:
        row = [one["arm"], one["reference"]]
        for key in ("tokens", "flops", "wall_seconds"):
            part = one[key]
            never = f"; never on {len(part['never'])} seeds" if part["never"] else ""
            row.append(
                (difference(part["ratio"], part["interval"], sign=False) if part["ratio"] else "—") + never
            )
        rows.append(row)
    if not rows:
        return []
    head = ["arm", "reaches the final outcome of", "with tokens fewer by", "FLOPs fewer by", "time less by"]
    return [
        "## Cost to reach the same",
        "",
        *table(head, rows),
        "",
        "Factors, geometric means over seeds with 95 % intervals.",
        "",
    ]


def render(statistics: dict[str, Any], name: str, commands: list[str], plots: list[tuple[str, str]]) -> str:
    """The document; `plots` are (alternative text, file) pairs."""
    runs = statistics["runs"]
    unfinished = runs["known"] - runs["finished"]
    lines = [f"# {block(statistics['study'])}", "", block(statistics["description"]), ""]
    if unfinished > 0:
        lines += [f"**Unfinished: {runs['finished']} of at least {runs['known']} runs are there.**", ""]
    lines += comparisons_section(statistics) + correlations_section(statistics) + arms_section(statistics)
    for alternative, file in plots:
        lines += [image(alternative, file), ""]
    lines += fits_section(statistics) + details_section(statistics) + source_section(statistics) + equal_cost_section(statistics) + reach_section(statistics)
    if statistics["limits"]:
        lines += ["## What this does not show", "", *(f"- {block(limit)}" for limit in statistics["limits"]), ""]
    lines += ["## How it was run", ""]
    facts = [
        f"{runs['finished']} runs, {runs['diverged']} of them diverged",
        f"{compact(runs['flops'])} training FLOPs, {duration(runs['wall_seconds'])} of training time in all",
        f"threads a run: {', '.join(map(str, runs['threads'])) or 'not known'}",
        f"study {code(statistics['configuration'])}, data {inline(listed(runs['datasets']))}",
        f"lmhead {words(', '.join(runs['versions']))}",
    ]
    lines += [
        *(f"- {fact}" for fact in facts),
        "",
        "The runs (finished ones are taken from the rows), and this document from them:",
        "",
    ]
    lines += [*fenced(commands), ""]
    return "\n".join(lines)
