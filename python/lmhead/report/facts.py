"""What a study's figures say, as numbers: means over seeds, paired differences, what the arms differ in."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lmhead.json_trees import flatten, lookup
from lmhead.report.findings import paired_interval
from lmhead.report.runs import Arm, Run, Study

LOSS = "validation.loss"
BITS_PER_BYTE = "validation.bits_per_byte"
RETENTION = "gradient_retention."


@dataclass
class Mean:
    """A mean over `count` seeds; `deviation` is the sample standard deviation, None for one seed."""

    value: float
    deviation: float | None
    count: int


@dataclass
class Difference:
    """Another arm minus the best one on the seeds that both finished, with the mean's 95 % t interval."""

    mean: float
    interval: tuple[float, float] | None
    count: int
    lower_for_best: int


@dataclass
class Ranked:
    arm: Arm
    mean: Mean
    difference: Difference | None  # None for the best arm, and where no seed is shared


@dataclass
class Comparison:
    """Arms by their last validation figure, lowest first; finished runs only."""

    metric: str
    ranking: list[Ranked]
    same_data: bool
    same_tokens: bool


def runs_shown(arm: Arm) -> list[Run]:
    """The runs whose figures stand for an arm: the finished ones; all of them where none is finished."""
    return arm.finished or arm.runs


def mean_of(values: Iterable[float]) -> Mean | None:
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return None
    return Mean(
        math.fsum(values) / len(values), statistics.stdev(values) if len(values) > 1 else None, len(values)
    )


def last_mean(runs: list[Run], metric: str) -> Mean | None:
    """Mean over `runs` of the last value logged of a metric, None where none has one."""
    return mean_of(found[1] for run in runs if (found := run.last(metric)) is not None)


def summary_mean(runs: list[Run], path: str) -> Mean | None:
    values = (lookup(run.summary, path) for run in runs)
    return mean_of(float(value) for value in values if type(value) in (int, float) and abs(value) < 1e300)


def last_by_seed(arm: Arm, metric: str) -> dict[int | None, float]:
    found = {run.seed: run.last(metric) for run in arm.finished}
    return {seed: last[1] for seed, last in found.items() if last is not None and math.isfinite(last[1])}


def paired_difference(study: Study, best: Arm, other: Arm, metric: str) -> Difference | None:
    """Mean of `other` minus `best` over shared seeds, with the study's own interval where it compared the two."""
    best_by_seed, other_by_seed = last_by_seed(best, metric), last_by_seed(other, metric)
    differences = [other_by_seed[seed] - best_by_seed[seed] for seed in best_by_seed if seed in other_by_seed]
    mean = mean_of(differences)
    if mean is None:
        return None
    interval = paired_interval(study, best.name, other.name, metric) if mean.count > 1 else None
    return Difference(mean.value, interval, mean.count, sum(difference > 0 for difference in differences))


def compare(study: Study) -> Comparison | None:
    """Ranks the arms that have a finished run with a validation loss, None where there is no such arm.

    Nats per token compare only where runs share a tokenizer; where the dataset differs the ranking is by
    bits per byte if every arm has them.
    """
    runs = [run for arm in study.arms for run in arm.finished if run.last(LOSS) is not None]
    data = {(str(dataset_hash(run)), str(run.summary.get("vocab_size"))) for run in runs}
    tokens = {value for run in runs if (value := tokens_at_last(run)) is not None}
    all_have_bytes = all(
        (last := run.last(BITS_PER_BYTE)) is not None and math.isfinite(last[1]) for run in runs
    )
    metric = BITS_PER_BYTE if len(data) > 1 and all_have_bytes else LOSS
    means = [(arm, mean) for arm in study.arms if (mean := last_mean(arm.finished, metric)) is not None]
    if not means:
        return None
    means.sort(key=lambda entry: entry[1].value)
    best = means[0][0]
    ranking = [
        Ranked(arm, mean, None if arm is best else paired_difference(study, best, arm, metric))
        for arm, mean in means
    ]
    return Comparison(metric, ranking, len(data) <= 1, len(tokens) <= 1)


def tokens_at_last(run: Run) -> float | None:
    """Training tokens seen at the last validation."""
    last = run.last(LOSS)
    if last is None:
        return None
    found = run.log.get("tokens", {}).get(last[0])
    return found if found is not None else run.summary.get("tokens")


def dataset_hash(run: Run) -> Any:
    dataset = run.summary.get("dataset")
    return dataset.get("content_hash") if isinstance(dataset, dict) else dataset


def configuration_tables(study: Study) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Splits the configurations into what all runs share and, by key, each arm's own value (its first run's).

    The seed is left out of the second, being what runs of one arm differ in; a key that an arm lacks is
    "absent".
    """
    flat = [dict(flatten(run.configuration)) for run in study.runs if run.configuration]
    keys = list(dict.fromkeys(key for configuration in flat for key in configuration))
    shared, different = {}, {}
    for key in keys:
        values = {
            json.dumps(configuration[key], sort_keys=True) if key in configuration else None
            for configuration in flat
        }
        if len(values) == 1:
            shared[key] = flat[0][key]
        elif key != "training.seed":
            different[key] = [
                dict(flatten(arm.runs[0].configuration)).get(key, "absent") for arm in study.arms
            ]
    return shared, different
