"""What documents gave, as figures: means with intervals, and paired differences between models."""

from __future__ import annotations

import json
import math
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


def document_figures(task: Any, sample: dict[str, Any]) -> dict[str, float]:
    """Every figure of one document that is a number: the harness's own, and those of the right answer."""
    figures = {
        name: float(sample[name])
        for name in sample["metrics"]
        if isinstance(sample.get(name), (int, float)) and math.isfinite(sample[name])
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


def task_figures(task: Any, samples: Sequence[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """The figures of every document by its number."""
    return {sample["doc_id"]: document_figures(task, sample) for sample in samples}


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


def average(documents: dict[str, dict[int, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Of every figure that all documents of all tasks have, the mean over tasks: the downstream average.

    `interval` is 95 % by the normal distribution, from the tasks' own variances: it is over documents, not over tasks.
    """
    if len(documents) < 2:
        return {}
    rows = [figures for of_task in documents.values() for figures in of_task.values()]
    averages = {}
    for name in (name for name in rows[0] if name != GOLD and all(name in figures for figures in rows)):
        mean = variance = 0.0
        for of_task in documents.values():
            values = [figures[name] for figures in of_task.values()]
            center = math.fsum(values) / len(values)
            mean += center / len(documents)
            if len(values) > 1:
                spread = math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)
                variance += spread / len(values) / len(documents) ** 2
        half = 1.959964 * math.sqrt(variance)
        averages[name] = {"value": mean, "interval": [mean - half, mean + half]}
    return averages


def compare(
    baseline: dict[str, dict[int, dict[str, float]]],
    other: dict[str, dict[int, dict[str, float]]],
    better: dict[str, dict[str, bool]],
    margin: float | None = None,
) -> list[dict[str, Any]]:
    """Paired differences other - baseline, task by task and figure by figure, over the documents that both have."""
    rows, samples, orders = [], [], []
    for task in baseline:
        common = [document for document in baseline[task] if document in other.get(task, {})]
        first = baseline[task][common[0]] if common else {}
        for name in first:
            if name == GOLD:
                continue  # the log likelihood of answers of any length says what bits per byte say, less fairly
            if any(name not in of[task][document] for of in (baseline, other) for document in common):
                continue
            rows.append({"task": task, "figure": name, "documents": len(common)})
            samples.append([other[task][document][name] - baseline[task][document][name] for document in common])
            orders.append(better[task].get(name, True))
    found = mean_statistics(samples, orders, margin)
    return [
        {**row, "difference": statistics["mean"], **{key: statistics[key] for key in
                                                    ("interval", "bootstrap_interval", "p_value", "holm_p", "finding")}}
        for row, statistics in zip(rows, found, strict=True)
    ]
