"""The report's sentences: each is computed from the figures, and says how far they carry."""

from __future__ import annotations

import collections
import math

from lmhead.formats import count, fixed, joined, percent, si
from lmhead.json_trees import lookup, number
from lmhead.report.facts import (
    BITS_PER_BYTE,
    LOSS,
    RETENTION,
    Comparison,
    Ranked,
    compare,
    configuration_tables,
    last_mean,
    runs_shown,
    tokens_at_last,
)
from lmhead.report.findings import entries
from lmhead.report.runs import Arm, Run, Study

ARMS_LISTED = 3  # a sentence names each arm up to this many, beyond it the range


def unit_of(metric: str) -> str:
    return "bits per byte" if metric == BITS_PER_BYTE else "nats per token"


def summary(study: Study) -> list[str]:
    """The findings, the most important first."""
    comparison = compare(study)
    if len(study.runs) == 1:
        paragraphs = [single_run(study.runs[0])]
    elif comparison is None:
        paragraphs = [
            "No run is finished with a validation loss, so the arms are not ranked; what has been logged so "
            "far is shown below."
        ]
    else:
        paragraphs = [ranking(comparison), *cautions(study, comparison)]
    paragraphs += verdicts(study) + retention(study)
    return paragraphs + left_out(study, comparison)


def verdicts(study: Study) -> list[str]:
    """The study's own findings, counted, or named where they are few."""
    found = [entry for entry in entries(study, "comparisons") if entry.get("seeds")]
    if not found:
        return []
    if len(found) <= ARMS_LISTED:
        said = "; ".join(f"“{entry.get('arm')}” against “{entry.get('baseline')}”: {entry.get('verdict')}" for entry in found)
        return [f"By the study's rule: {said}."]
    kinds = collections.Counter(str(entry.get("finding", "undecided")) for entry in found)
    words = {"harm": "harm shown", "gain": "gain shown", "no_harm": "no harm", "undecided": "undecided"}
    said = joined([f"{number} {words.get(kind, kind)}" for kind, number in kinds.most_common()])
    return [f"By the study's rule, of {len(found)} comparisons: {said}. The table has them all."]


def single_run(run: Run) -> str:
    last = run.last(LOSS)
    if last is None or not math.isfinite(last[1]):
        return (
            f"The run is {run.state}; no validation loss has been logged."
            if not run.finished
            else "The run is finished; it logged no validation loss."
        )
    opening = (
        "The run is finished: it ends"
        if run.finished
        else f"The run is not finished ({run.state}): it stands"
    )
    tokens = number(tokens_at_last(run))
    text = f"{opening} at a validation loss of {fixed(last[1])} nats per token{in_bits([run])}" + (
        f" after {si(tokens)} training tokens." if tokens is not None else "."
    )
    values = {step: loss for step, loss in run.log.get(LOSS, {}).items() if math.isfinite(loss)}
    if values and min(values.values()) < last[1]:
        step = min(values, key=values.__getitem__)
        text += f" Its lowest was {fixed(values[step])}, at step {step:,}."
    return (
        text
        + " One run with one seed: nothing can be said about the spread between seeds or any alternative."
    )


def in_bits(runs: list[Run]) -> str:
    bits = last_mean(runs, BITS_PER_BYTE)
    return f" ({fixed(bits.value)} bits per byte)" if bits is not None else ""


def ranking(comparison: Comparison) -> str:
    best, *others = comparison.ranking
    unit = unit_of(comparison.metric)
    bits = in_bits(best.arm.finished) if comparison.metric == LOSS else ""
    over = f", the mean of {count(best.mean.count, 'seed')}" if best.mean.count > 1 else ""
    if not others:
        return (
            f"Arm “{best.arm.name}” ends at a validation loss of {fixed(best.mean.value)} {unit}{bits}{over}."
        )
    lowest = f"{fixed(best.mean.value)} {unit}{bits}{over}"
    text = f"Arm “{best.arm.name}” ends with the lowest validation loss: {lowest}. "
    named = others if len(others) <= ARMS_LISTED else [others[0], others[-1]]
    parts = [behind(best, other, comparison.metric) for other in named]
    return (
        text
        + "Above it "
        + ("are " if len(parts) > 1 else "is ")
        + joined(parts)
        + (f", with {count(len(others) - 2, 'arm')} between them." if len(named) < len(others) else ".")
    )


def behind(best: Ranked, other: Ranked, metric: str) -> str:
    """How far an arm ends above the best one: by the paired difference where there is one."""
    difference = other.difference.mean if other.difference else other.mean.value - best.mean.value
    text = f"“{other.arm.name}” by {fixed(difference)}"
    if metric == LOSS:
        best_bits = last_mean(best.arm.finished, BITS_PER_BYTE)
        bits = last_mean(other.arm.finished, BITS_PER_BYTE)
        if best_bits and bits:
            text += f" ({fixed(bits.value - best_bits.value)} bits per byte)"
    if other.difference and other.difference.interval:
        low, high = other.difference.interval
        text += f" [{fixed(low)}, {fixed(high)}]"
    return text


def cautions(study: Study, comparison: Comparison) -> list[str]:
    """What the ranking rests on: seeds, intervals, equal data, equal tokens, a common learning rate."""
    others = comparison.ranking[1:]
    if not others:
        return []
    paragraphs = []
    paired = [other.difference for other in others if other.difference]
    counts = [other.difference.count if other.difference else 0 for other in others]
    if max(counts) == 0:
        paragraphs.append(
            "The arms share no finished seed, so their difference mixes the arm with the seed: nothing "
            "about significance can be said."
        )
    elif max(counts) == 1:
        paragraphs.append(
            "Each difference rests on one seed: nothing about significance can be said. Another seed could "
            "change the order."
        )
    else:
        seeds = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        text = (
            f"In brackets is the 95 % interval of the mean paired difference (Student's t, {seeds} shared "
            "seeds), where the study compared the two. It is not corrected for having picked the lowest of "
            f"{count(len(comparison.ranking), 'arm')} after looking."
        )
        lower, pairs = sum(entry.lower_for_best for entry in paired), sum(entry.count for entry in paired)
        best = comparison.ranking[0].arm.name
        text += f" “{best}” is the lower one in {lower} of {pairs} comparisons on the same seed."
        open_arms = [
            f"“{other.arm.name}”"
            for other in others
            if not other.difference or not other.difference.interval or other.difference.interval[0] <= 0
        ]
        if open_arms:
            named = joined(open_arms) if len(open_arms) <= ARMS_LISTED else count(len(open_arms), "arm")
            text += f" Against {named} the interval includes zero or is missing: that order is not settled."
        paragraphs.append(text)
    if not comparison.same_data:
        basis = (
            "the ranking is by bits per byte, which compares only if the validation text is the same"
            if comparison.metric == BITS_PER_BYTE
            else "and no bits per byte are known, so this ranking may mean nothing"
        )
        paragraphs.append(
            f"The runs differ in dataset or vocabulary: nats per token do not compare between them; {basis}."
        )
    if not comparison.same_tokens:
        paragraphs.append(
            "The finished runs did not all see the same number of training tokens; the ranking compares "
            "their ends, not equal budgets."
        )
    return paragraphs


def retention(study: Study) -> list[str]:
    """How much of the logit gradient never reaches the backbone, always beside the random-subspace null."""
    found = []
    for arm in study.arms:
        figures = [
            last_mean(runs_shown(arm), RETENTION + key)
            for key in ("destroyed_ratio", "null_destroyed_ratio", "destroyed_excess")
        ]
        if figures[0] and figures[1]:
            ratio, null = figures[0].value, figures[1].value
            found.append((arm, ratio, null, figures[2].value if figures[2] else ratio - null))
    if not found:
        return ["The gradient's retention was not measured in these runs."]
    if len(found) <= ARMS_LISTED:
        parts = [
            f"{name_in_list(study, arm)}{percent(ratio)} of its norm, where a random subspace of the same "
            f"dimension would lose {percent(null)} (excess {fixed(excess, 5, sign=True)})"
            if index == 0
            else f"{name_in_list(study, arm)}{percent(ratio)}, null {percent(null)} "
            f"(excess {fixed(excess, 5, sign=True)})"
            for index, (arm, ratio, null, excess) in enumerate(found)
        ]
        text = "; ".join(parts)
    else:
        _, ratios, nulls, excesses = zip(*found, strict=True)
        text = (
            f"between {percent(min(ratios))} and {percent(max(ratios))} of its norm, where random subspaces "
            f"of the same dimensions would lose between {percent(min(nulls))} and {percent(max(nulls))} "
            f"(excess {fixed(min(excesses), 5, sign=True)} to {fixed(max(excesses), 5, sign=True)})"
        )
    kept = [max(0.0, 1 - ratio * ratio) for _, ratio, _, _ in found]
    kept_norm = percent_range([math.sqrt(share) for share in kept])
    kept_text = f"{kept_norm} of the norm and {percent_range(kept)} of the energy"
    more, less = sum(entry[3] < 0 for entry in found), sum(entry[3] > 0 for entry in found)
    if len(found) == 1:
        verdict = (
            "The head keeps "
            + ("more" if more else "less" if less else "as much")
            + (" than" if more or less else " as")
            + " a random subspace would."
        )
    elif more == len(found) or less == len(found):
        verdict = f"Every head keeps {'more' if more else 'less'} than a random subspace would."
    else:
        verdict = f"Of {len(found)} heads {more} keep more than a random subspace would and {less} keep less."
    return [
        "At the last measurement, on one training batch, the part of the logit gradient that never reaches "
        f"the backbone has: {text}. Norms do not add up to one: what is kept is {kept_text}. {verdict}"
    ]


def name_in_list(study: Study, arm: Arm) -> str:
    return f"“{arm.name}” " if len(study.arms) > 1 else ""


def percent_range(shares: list[float]) -> str:
    low, high = f"{min(shares) * 100:.2g}", f"{max(shares) * 100:.2g}"
    return f"{low}\u00a0%" if low == high else f"{low} to {high}\u00a0%"


def left_out(study: Study, comparison: Comparison | None) -> list[str]:
    """Names what is missing from the figures above: diverged and unfinished runs."""
    if not study.is_study:
        return []
    diverged = [run for run in study.runs if run.diverged_at is not None]
    unfinished = [run for run in study.runs if not run.finished and run.diverged_at is None]
    sentences = []
    if diverged:
        sentences.append(
            f"{count(len(diverged), 'run')} diverged; the means leave "
            f"{'it' if len(diverged) == 1 else 'them'} out and so flatter the arm."
        )
    if unfinished:
        sentences.append(
            f"{count(len(unfinished), 'run')} {'is' if len(unfinished) == 1 else 'are'} not finished, drawn "
            "dashed and "
            + ("left out of the ranking." if comparison else "labelled so.")
            + " The logs do not say whether such a run was interrupted or broke off at a loss that is not "
            "finite; if the latter, leaving it out flatters the arm."
        )
    if study.missing_runs:
        sentences.append(
            f"{count(study.missing_runs, 'planned run')} {'has' if study.missing_runs == 1 else 'have'} not "
            "begun."
        )
    return [" ".join(sentences)] if sentences else []


def limits(study: Study) -> list[str]:
    """What may not be concluded from this page."""
    points = []
    if any(RETENTION + "destroyed_ratio" in run.log for run in study.runs):
        points += [
            "A high destroyed ratio is no finding by itself. It is mostly geometry: a random subspace of "
            "the same dimension D in a vocabulary of V destroys about √(1 − D/V), so only the excess over "
            "that null says something about the head.",
            "The destroyed part is not lost to the model. It does not reach the backbone, but it still "
            "trains the head's own weight (dL/dW is formed from the whole logit gradient).",
            "That the destroyed ratio harms training is contested: Godey & Artzi (arXiv 2603.10145) report "
            "that it does, Murugan (arXiv 2608.16671) finds the geometry but not the harm, and that "
            "projection figures did not reliably predict progress. No figure on this page settles it.",
        ]
    _, different = configuration_tables(study)
    if len(study.arms) > 1:
        if any(key.startswith("head.") for key in different):
            points.append(
                "Arms whose heads differ in form also differ in what they can express, in parameters and in "
                "cost. A gap in loss between them is not the gradient bottleneck's alone."
            )
        rates = [key for key in different if key.endswith("learning_rate")]
        used = {str(lookup(run.configuration, "optimizer.learning_rate")) for run in study.runs} - {"None"}
        if rates:
            points.append(
                "The arms do not use the same learning rate. Whether each was tuned for its arm cannot be "
                "seen from the runs; an untuned arm may look worse than it is."
            )
        elif used:
            points.append(
                "All arms use the same learning rate"
                + (f" ({', '.join(used)})" if len(used) == 1 else "")
                + ". One that suits one arm may not suit another: part of a gap may be tuning."
            )
        points.append(
            "Equal steps, equal tokens and equal wall-clock are different comparisons. The table compares "
            "the ends of the runs; the plots show tokens and wall-clock."
        )
    points.append(
        "These figures hold for this model, this data and this many tokens. They do not carry to other "
        "scales by themselves."
    )
    own = study.definition.get("limits")
    return points + [f"By the study itself: {limit}" for limit in (own if isinstance(own, list) else []) if isinstance(limit, str)]
