"""Least squares of a study's paired differences against sizes, from the points of statistics.json.

The formulae are in docs/statistics.md, "Fits". Everything is float64. The resampling draws from a stream that is named by what
is fitted, so that the same rows give the same figures.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


def predictor_values(predictors: list[dict[str, Any]], quantities: list[float]) -> np.ndarray:
    return np.array(
        [np.log2(value) if one["log2"] else value for one, value in zip(predictors, quantities, strict=True)]
    )


def stream_of(one: dict[str, Any]) -> np.random.PCG64:
    name = "\n".join(["study.fit", one["figure"], one["baseline"], one["arm"]])
    return np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little"))


class Resamples:
    """Means of places over resampled seeds, for intervals of whatever is linear in the places' means.

    The intervals are studentised: a place that decides a slope alone has few seeds, of which a plain percentile interval is
    too narrow by a third.
    """

    def __init__(self, samples: list[np.ndarray], stream: np.random.PCG64) -> None:
        self.means = np.array([sample.mean() for sample in samples])
        self.variances = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
        drawn = [sample[self.choose(len(sample), stream)] for sample in samples]
        self.drawn_means = np.column_stack([one.mean(axis=1) for one in drawn])
        self.drawn_variances = np.column_stack([one.var(axis=1, ddof=1) / one.shape[1] for one in drawn])

    @staticmethod
    def choose(n: int, stream: np.random.PCG64) -> np.ndarray:
        raw = stream.random_raw(RESAMPLES * n)  # the one output that NumPy promises to keep
        return ((raw >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).reshape(RESAMPLES, n)

    def interval(self, weights: np.ndarray) -> list[float] | None:
        """95 % for the sum of the places' means by these weights; None where the seeds are too few to bound it."""
        value, error = self.means @ weights, np.sqrt(self.variances @ weights**2)
        if error == 0:
            return [float(value), float(value)]
        drawn = (self.drawn_means @ weights - value) / np.sqrt(self.drawn_variances @ weights**2)
        drawn = np.sort(np.where(np.isnan(drawn), 0.0, drawn))  # all seeds of a resample equal: infinite, or at the value
        low, high = (drawn[round(share * (RESAMPLES - 1))] for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        ends = [float(value - high * error), float(value - low * error)]
        return ends if np.isfinite(ends).all() else None


def what_is_missing(one: dict[str, Any], predictors: list[dict[str, Any]], design: np.ndarray) -> str | None:
    """Why there is no fit yet; None where there is one."""
    have, need = len(one["points"]), len(predictors) + 1
    if have < need:
        return f"{need} coefficients need pairs at {need} places, of which {have} are there"
    spans = np.ptp(design, axis=0)
    same = [p["name"] for p, span in zip(predictors, spans[1:], strict=True) if span == 0]
    if same:
        return f"{' and '.join(same)} must differ between places, and {'is' if len(same) == 1 else 'are'} the same at all {have} that are there"
    scaled = (design[:, 1:] - design[:, 1:].mean(axis=0)) / spans[1:]
    if np.linalg.matrix_rank(scaled, tol=1e-9) == len(predictors):
        return None
    return f"the predictors must not determine one another, and do at the {have} places that are there"


def solver_of(design: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The matrix that takes means of places to coefficients: (X' N X)^-1 X' N by the pseudo-inverse of N^1/2 X."""
    root = np.sqrt(weights)
    return np.linalg.pinv(root[:, None] * design) * root


def left_out(design: np.ndarray, weights: np.ndarray, means: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """Coefficients without each place in turn, and how far its mean is from what they give there; none where too few
    places remain to tell the coefficients apart."""
    coefficients, errors = [], []
    for place in range(len(means)):
        rest = np.arange(len(means)) != place
        if np.linalg.matrix_rank(design[rest]) < design.shape[1]:
            continue
        without = solver_of(design[rest], weights[rest]) @ means[rest]
        coefficients.append(without)
        errors.append(float(means[place] - design[place] @ without))
    return coefficients, errors


def reach_of(predictors: list[dict[str, Any]], points: list[dict[str, Any]], quantities: list[float]) -> list[dict[str, Any]]:
    """Of each quantity the measured range, and by which factor a point lies beyond it; 1 inside."""
    reach = []
    for index, one in enumerate(predictors):
        measured = [point["quantities"][index] for point in points]
        low, high, value = min(measured), max(measured), quantities[index]
        beyond = max(value / high, low / value, 1.0)
        reach.append({"quantity": one["quantity"], "value": value, "measured": [low, high], "beyond": beyond})
    return reach


@np.errstate(all="ignore")
def fitted(one: dict[str, Any], predictors: list[dict[str, Any]], predict: list[dict[str, Any]]) -> dict[str, Any]:
    """The fit of one arm's differences, or under `lacking` why there is none yet."""
    points = one["points"]
    values = np.array([predictor_values(predictors, point["quantities"]) for point in points]).reshape(len(points), len(predictors))
    design = np.column_stack([np.ones(len(points)), values])
    lacking = what_is_missing(one, predictors, design)
    if lacking:
        return {"lacking": lacking}
    samples = [np.array(point["differences"], dtype=np.float64) for point in points]
    weights = np.array([float(len(sample)) for sample in samples])
    centre = np.average(values, axis=0, weights=weights)
    design[:, 1:] -= centre
    means = np.array([sample.mean() for sample in samples])
    solver = solver_of(design, weights)
    coefficients = solver @ means
    resamples = Resamples(samples, stream_of(one))
    without, errors = left_out(design, weights, means)
    pooled = sum(((sample - sample.mean()) ** 2).sum() for sample in samples) / (weights.sum() - len(samples))
    residuals = means - design @ coefficients
    if not np.isfinite([*coefficients, pooled, residuals @ residuals, *errors]).all():
        return {"lacking": "differences must be small enough to be squared"}
    predictions = []
    for point in predict:
        at = np.concatenate([[1.0], predictor_values(predictors, point["quantities"]) - centre])
        spread = [float(at @ other) for other in without]
        predictions.append(
            {
                "name": point["name"],
                "value": float(at @ coefficients),
                "interval": resamples.interval(at @ solver),
                "without_a_place": [min(spread), max(spread)] if spread else None,
                "reach": reach_of(predictors, points, point["quantities"]),
            }
        )
    return {
        "centre": [float(2**c if p["log2"] else c) for p, c in zip(predictors, centre, strict=True)],
        "constant": float(coefficients[0]),
        "constant_interval": resamples.interval(solver[0]),
        "slopes": [
            {"predictor": p["name"], "value": float(coefficients[1 + i]), "interval": resamples.interval(solver[1 + i])}
            for i, p in enumerate(predictors)
        ],
        "residual": float(np.sqrt(np.mean(residuals**2))),
        "chance": float(np.sqrt(np.mean(pooled / weights))),
        "left_out_error": float(np.sqrt(np.mean(np.square(errors)))) if errors else None,
        "left_out_places": len(errors),
        "predictions": predictions,
    }


def value_at(fit: dict[str, Any], predictors: list[dict[str, Any]], quantities: list[float]) -> float:
    """The fitted difference at a point, for plots."""
    centre = predictor_values(predictors, fit["centre"])
    slopes = np.array([slope["value"] for slope in fit["slopes"]])
    return float(fit["constant"] + (predictor_values(predictors, quantities) - centre) @ slopes)


def with_fits(statistics: dict[str, Any]) -> dict[str, Any]:
    """Statistics whose `fits`, where the study asks for any, have what was fitted beside its points."""
    fits = [
        {**request, "differences": [{**one, **fitted(one, request["predictors"], request["predict"])} for one in request["differences"]]}
        for request in statistics.get("fits", [])
    ]
    return {**statistics, "fits": fits} if fits else statistics
