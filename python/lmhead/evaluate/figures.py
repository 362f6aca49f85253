"""What documents gave, as figures: means with intervals, and paired differences between models."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch

from lmhead import ops as _ops  # noqa: F401  (loads the library that has the operation)

GOLD = "gold_log_likelihood"
BITS = "bits_per_byte"
HIGHER_IS_BETTER = {GOLD: True, BITS: False}


def gold_choice(task: Any, sample: dict[str, Any]) -> int | None:
    """Which of a document's requests is the right answer; None where there is none, or more than one."""
    if task.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling"):
        return 0
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else task.doc_to_target(sample["doc"])
    if isinstance(gold, str):
        choices = task.doc_to_choice(sample["doc"])
        gold = choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(sample["filtered_resps"]) else None


def is_mean(task: Any, name: str) -> bool:
    """Whether the harness makes the figure of a task by averaging its documents'."""
    from lm_eval.api.metrics import mean

    return task.aggregation().get(name, mean) is mean


def document_figures(task: Any, sample: dict[str, Any]) -> dict[str, float]:
    """Every figure of one document that is a number and whose mean is the task's: the harness's own, and those of the right answer."""
    figures = {
        name: float(sample[name])
        for name in sample["metrics"]
        if isinstance(sample.get(name), (int, float)) and math.isfinite(sample[name]) and is_mean(task, name)
    }
    gold = gold_choice(task, sample)
    if gold is None:
        return figures
    response = sample["filtered_resps"][gold]
    log_likelihood = response[0] if isinstance(response, (tuple, list)) else response
    text = sample["arguments"][gold][-1]  # of a continuation its delimiter is part, which was scored too
    figures[GOLD] = float(log_likelihood)
    size = len(text.encode("utf-8"))
    if size > 0:
        figures[BITS] = -float(log_likelihood) / math.log(2) / size
    return figures


def by_filter(samples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Samples by what is put behind the names of their figures: nothing, or of several filters the one they went through."""
    found: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        found.setdefault(sample.get("filter", "none"), []).append(sample)
    return {"": list(samples)} if len(found) < 2 else {f",{name}": of for name, of in found.items()}


def task_figures(task: Any, samples: Sequence[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """The figures of every document by its number."""
    documents: dict[int, dict[str, float]] = {}
    for suffix, of_filter in by_filter(samples).items():
        for sample in of_filter:
            figures = documents.setdefault(sample["doc_id"], {})
            for name, value in document_figures(task, sample).items():
                figures[name if name in HIGHER_IS_BETTER else name + suffix] = value
    return documents


def corpus_figures(task: Any, samples: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The harness's figures of a task that are no mean over its documents: `value` and, of a perplexity or of bits per byte of
    all texts, the BCa `interval` of the ratio that they are made of, to first order; else None."""
    from lm_eval.api import metrics

    kinds = {metrics.perplexity: lambda ratio: math.exp(-ratio), metrics.weighted_perplexity: lambda ratio: math.exp(-ratio),
             metrics.bits_per_byte: lambda ratio: -ratio / math.log(2)}
    found: dict[str, dict[str, Any]] = {}
    for suffix, of_filter in by_filter(samples).items():
        for name in of_filter[0]["metrics"] if of_filter else []:
            items = [sample[name] for sample in of_filter if name in sample]
            if is_mean(task, name) or not items:
                continue
            made = task.aggregation()[name]
            if made not in kinds:
                value = made(items)
                if isinstance(value, numbers.Real):
                    found[name + suffix] = {"value": float(value), "interval": None}
                continue
            sums = [item if isinstance(item, (tuple, list)) else (item, 1) for item in items]
            size = math.fsum(weight for _, weight in sums) / len(sums)
            ratio = math.fsum(value for value, _ in sums) / len(sums) / size
            [of_ratio] = mean_statistics([[ratio + (value - ratio * weight) / size for value, weight in sums]], [True])
            ends = of_ratio["bootstrap_interval"]
            found[name + suffix] = {"value": kinds[made](ratio),
                                    "interval": sorted(kinds[made](end) for end in ends) if ends else None}
    return found


def directions(task: Any) -> dict[str, bool]:
    """Whether more is better, by figure."""
    return {**{name: bool(better) for name, better in task.higher_is_better().items()}, **HIGHER_IS_BETTER}


def mean_statistics(
    samples: Sequence[Sequence[float]], higher_is_better: Sequence[bool], margin: float | None = None
) -> list[dict[str, Any]]:
    """Mean, intervals and finding of each sample by the project's rule (docs/statistics.md), Holm's correction over all."""
    text = torch.ops.lmhead.mean_statistics(
        [torch.tensor(sample, dtype=torch.float64) for sample in samples],
        [int(better) for better in higher_is_better],
        math.nan if margin is None else margin,
    )
    return json.loads(text)


def summarise(documents: dict[int, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Of every figure that all documents have: `value`, the mean over documents, with its bootstrap `interval`."""
    names = [
        name for name in dict.fromkeys(name for figures in documents.values() for name in figures)
        if all(name in figures for figures in documents.values())
    ]
    samples = [[figures[name] for figures in documents.values()] for name in names]
    return {
        name: {"value": statistics["mean"], "interval": statistics["bootstrap_interval"]}
        for name, statistics in zip(names, mean_statistics(samples, [True] * len(samples)), strict=True)
    }


Weights = dict[str, float]  # of tasks, adding up to 1


def group_weights(group: Any, documents: dict[str, dict[int, dict[str, float]]]) -> Weights:
    """What each task of one of the harness's groups counts: as its documents, or all the same where the group says so."""
    names = [task.task_name for task in group.get_all_tasks()]
    by_size = any(metric.weight_by_size for metric in group.aggregate_metric_list)
    sizes = {name: float(len(documents[name])) if by_size else 1.0 for name in names}
    whole = sum(sizes.values())
    return {name: size / whole for name, size in sizes.items()}


def asked_for(tasks: Any) -> list[str]:
    """The groups that have figures of their own and are part of no other, and the tasks that are part of none: what the downstream
    average is over."""
    found: dict[str, None] = {}

    def take(group: Any) -> None:
        if group.has_aggregation:
            found[group.name] = None
            return
        for child in group:
            if hasattr(child, "get_all_tasks"):
                take(child)
            else:
                found[child.task_name] = None

    groups = tasks["groups"]
    within = {child.name for group in groups.values() for child in group.get_all_groups()}
    grouped = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    for name, group in groups.items():
        if name not in within:
            take(group)
    for name in tasks["tasks"]:
        if name not in grouped:
            found[name] = None
    return list(found)


def together(units: dict[str, Weights]) -> Weights:
    """The weights of the mean over units."""
    weights: Weights = {}
    for unit in units.values():
        for task, weight in unit.items():
            weights[task] = weights.get(task, 0.0) + weight / len(units)
    return weights


def weighted(documents: dict[str, dict[int, dict[str, float]]], weights: Weights) -> dict[str, dict[str, Any]]:
    """Of every figure that all documents of these tasks have, the weighted mean of the tasks' means.

    `interval` is 95 % by the normal distribution, from the tasks' own variances: it is over documents, not over tasks; None
    where a task has one document.
    """
    rows = [figures for task in weights for figures in documents[task].values()]
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in rows[0] if name != GOLD and all(name in figures for figures in rows)):
        mean = variance = 0.0
        for task, weight in weights.items():
            values = [figures[name] for figures in documents[task].values()]
            center = math.fsum(values) / len(values)
            mean += weight * center
            spread = math.fsum((value - center) ** 2 for value in values)
            variance += weight**2 * spread / len(values) / (len(values) - 1) if len(values) > 1 else math.nan
        half = 1.959964 * math.sqrt(variance) if variance >= 0 else None
        found[name] = {"value": mean, "interval": None if half is None else [mean - half, mean + half]}
    return found


def average(documents: dict[str, dict[int, dict[str, float]]], units: dict[str, Weights] | None = None) -> dict[str, dict[str, Any]]:
    """The downstream average: the mean over units, each a task or a group of tasks; nothing for a single one."""
    units = units or {task: {task: 1.0} for task in documents}
    return weighted(documents, together(units)) if len(units) > 1 else {}


def compare(
    baseline: dict[str, dict[int, dict[str, float]]],
    other: dict[str, dict[int, dict[str, float]]],
    better: dict[str, dict[str, bool]],
    margin: float | None = None,
    units: dict[str, Weights] | None = None,
) -> list[dict[str, Any]]:
    """Paired differences other - baseline, unit by unit and figure by figure, over the documents that both have; of several units
    at last their average."""
    units = dict(units or {task: {task: 1.0} for task in baseline})
    if len(units) > 1:
        units["average"] = together(units)
    rows, samples, orders = [], [], []
    for unit, weights in units.items():
        common = {task: [place for place in baseline[task] if place in other.get(task, {})] for task in weights}
        if not all(common.values()):
            continue
        first = next(iter(weights))
        for name in baseline[first][common[first][0]]:
            if name == GOLD:
                continue  # the log likelihood of answers of any length says what bits per byte say, less fairly
            if any(name not in of[task][place] for of in (baseline, other) for task in weights for place in common[task]):
                continue
            differences = {task: [other[task][place][name] - baseline[task][place][name] for place in common[task]]
                           for task in weights}
            rows.append({"task": unit, "figure": name, "documents": sum(map(len, differences.values()))})
            samples.append(spread_over_documents(differences, weights))
            orders.append(better[first].get(name.split(",")[0], True))
    found = mean_statistics(samples, orders, margin)
    return [
        {**row, "difference": statistics["mean"], **{key: statistics[key] for key in
                                                    ("interval", "bootstrap_interval", "p_value", "holm_p", "finding")}}
        for row, statistics in zip(rows, found, strict=True)
    ]


def spread_over_documents(values: dict[str, list[float]], weights: Weights) -> list[float]:
    """A number a document whose mean is the weighted mean of the tasks' means, and which varies as documents do within their tasks."""
    if len(values) == 1:
        return next(iter(values.values()))
    means = {task: math.fsum(of) / len(of) for task, of in values.items()}
    center = math.fsum(weights[task] * mean for task, mean in means.items())
    whole = sum(map(len, values.values()))
    return [center + weights[task] * whole / len(of) * (value - means[task]) for task, of in values.items() for value in of]
