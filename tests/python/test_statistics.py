"""The statistics of lmhead study against SciPy."""

import itertools
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

PROGRAM = Path(__file__).resolve().parents[2] / "build" / "release" / "bin" / "statistics_program"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the release build is not there")

DRAW = np.random.default_rng(3)
SAMPLES = [
    list(map(float, sample))
    for sample in (
        DRAW.normal(0.06, 0.02, 5),
        DRAW.normal(0, 1, 5),
        DRAW.normal(-2, 1, 8),
        DRAW.exponential(1, 12) - 0.3,
        DRAW.normal(0.2, 1, 20),
        DRAW.normal(0.1, 1, 30),
        [0.1, 0.3],
        [1, 1, 2, 2, 2, 9],
    )
]
PAIRS = [
    [list(map(float, x)), list(map(float, y))]
    for x, y in (
        (DRAW.normal(size=30), DRAW.normal(size=30)),
        (np.arange(20), np.arange(20) + DRAW.normal(0, 10, 20)),
        (DRAW.integers(0, 4, 40), DRAW.integers(0, 4, 40)),
    )
]
RATE = np.tile([1.0, 2.0, 4.0, 8.0], 8)
HEAD = np.repeat(np.arange(4), 8)
SIDE = [DRAW.normal(size=32) + 0.5 * np.log(RATE) + HEAD for _ in range(2)]
PARTIAL = [
    {
        "left": SIDE[0].tolist(),
        "right": np.round(SIDE[1], digits).tolist(),
        "given": given,
        "within": within,
    }
    for digits, given, within in (
        (6, [], []),
        (6, [RATE.tolist()], []),
        (1, [RATE.tolist(), DRAW.normal(size=32).tolist()], []),
        (6, [], [HEAD.tolist(), RATE.astype(int).tolist()]),
        (0, [RATE.tolist()], [HEAD.tolist()]),
    )
]
P_VALUES = [0.01, 0.04, 0.03, 0.005, 0.5, 0.9]
T = [[2.1, 4, 0.975], [-0.3, 1, 0.9], [12.0, 9, 0.5], [0.0, 30, 0.001], [5.0, 1.5, 0.2]]


@pytest.fixture(scope="module")
def ours():
    request = json.dumps({"samples": SAMPLES, "pairs": PAIRS, "partial": PARTIAL, "p_values": P_VALUES, "t": T})
    return json.loads(
        subprocess.run([PROGRAM], input=request, capture_output=True, text=True, check=True).stdout
    )


def test_students_t_is_scipys(ours):
    for (t, freedom, probability), got in zip(T, ours["t"]):
        assert got["two_sided"] == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-12)
        assert got["quantile"] == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_paired_statistics_are_scipys(ours, index):
    sample, got = np.array(SAMPLES[index]), ours["samples"][index]
    test = stats.ttest_1samp(sample, 0)
    assert got["mean"] == pytest.approx(sample.mean(), rel=1e-12)
    assert got["p_value"] == pytest.approx(test.pvalue, rel=1e-10)
    assert got["interval"] == pytest.approx(list(test.confidence_interval()), rel=1e-8)
    m = len(sample) - 1  # Hedges' correction, exact
    if m == 1:
        assert got["effect_size"] is None
        return
    correction = math.gamma(m / 2) / (math.sqrt(m / 2) * math.gamma((m - 1) / 2))
    assert got["effect_size"] == pytest.approx(correction * sample.mean() / sample.std(ddof=1), rel=1e-10)


@pytest.mark.parametrize("index", [i for i, sample in enumerate(SAMPLES) if len(sample) <= 12])
def test_exact_sign_flips_are_scipys(ours, index):
    # SciPy doubles the smaller tail; around zero the two tails of sign flips are mirror images.
    test = stats.permutation_test(
        (np.array(SAMPLES[index]),), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert ours["samples"][index]["sign_flip_p"] == pytest.approx(min(1, test.pvalue), rel=1e-12)


def test_random_sign_flips_are_near_students_t(ours):
    (index,) = [i for i, sample in enumerate(SAMPLES) if len(sample) > 20]
    assert ours["samples"][index]["sign_flip_p"] == pytest.approx(ours["samples"][index]["p_value"], abs=0.02)


@pytest.mark.parametrize("index", [i for i, sample in enumerate(SAMPLES) if len(sample) > 5])
def test_bootstrap_intervals_are_scipys_up_to_chance(ours, index):
    sample = np.array(SAMPLES[index])
    want = stats.bootstrap(
        (sample,), np.mean, method="BCa", n_resamples=40000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = want.high - want.low
    assert ours["samples"][index]["bootstrap_interval"] == pytest.approx(
        [want.low, want.high], abs=0.06 * width
    )


@pytest.mark.parametrize("index", [i for i, sample in enumerate(SAMPLES) if len(sample) == 5])
def test_bootstrap_intervals_of_five_are_over_every_resample(ours, index):
    sample = np.array(SAMPLES[index])
    means = np.array([np.mean(chosen) for chosen in itertools.product(sample, repeat=5)])
    tie = 1e-12
    share = (np.mean(means < sample.mean() - tie) + np.mean(means <= sample.mean() + tie)) / 2
    left_out = np.array([np.delete(sample, i).mean() for i in range(5)])
    u = left_out.mean() - left_out
    acceleration = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    z = stats.norm.ppf(share) + stats.norm.ppf([0.025, 0.975])
    probabilities = stats.norm.cdf(stats.norm.ppf(share) + z / (1 - acceleration * z))
    want = np.quantile(means, probabilities)
    assert ours["samples"][index]["bootstrap_interval"] == pytest.approx(list(want), rel=1e-9)


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_spearman_is_scipys(ours, index):
    left, right = map(np.array, PAIRS[index])
    got = ours["pairs"][index]
    assert got["spearman"] == pytest.approx(stats.spearmanr(left, right).statistic, rel=1e-10)
    want = stats.bootstrap(
        (left, right),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="BCa",
        n_resamples=2000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert got["interval"] == pytest.approx([want.low, want.high], abs=0.12 * (want.high - want.low))


def partial_by_least_squares(left, right, given, within):
    columns = [np.ones(len(left)), *(stats.rankdata(values) for values in given)]
    columns += [np.array(values) == value for values in within for value in np.unique(values)]
    design = np.array(columns, dtype=float).T
    a, b = (
        ranks - design @ np.linalg.lstsq(design, ranks, rcond=1e-9)[0]
        for ranks in map(stats.rankdata, (left, right))
    )
    return stats.pearsonr(a, b).statistic, len(left) - 1 - np.linalg.matrix_rank(design)


@pytest.mark.parametrize("index", range(len(PARTIAL)))
def test_partial_spearman_is_that_of_rank_residuals(ours, index):
    rho, freedom = partial_by_least_squares(**PARTIAL[index])
    got = ours["partial"][index]
    assert got["rho"] == pytest.approx(rho, rel=1e-9)
    assert got["degrees_of_freedom"] == freedom
    t = rho * np.sqrt(freedom / (1 - rho**2))
    assert got["p_value"] == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-8)
    if not PARTIAL[index]["given"] and not PARTIAL[index]["within"]:
        test = stats.spearmanr(PARTIAL[index]["left"], PARTIAL[index]["right"])
        assert [got["rho"], got["p_value"]] == pytest.approx([test.statistic, test.pvalue], rel=1e-9)


@pytest.mark.parametrize("index", [1, 3])
def test_intervals_of_partial_spearman_are_scipys_up_to_chance(ours, index):
    left, right, given, within = (PARTIAL[index][key] for key in ("left", "right", "given", "within"))

    def statistic(places):
        some = [[np.array(values)[places] for values in values_of] for values_of in (given, within)]
        return partial_by_least_squares(np.array(left)[places], np.array(right)[places], *some)[0]

    want = stats.bootstrap(
        (np.arange(len(left)),), statistic, vectorized=False, n_resamples=1500, rng=np.random.default_rng(1)
    ).confidence_interval
    width = want.high - want.low
    assert ours["partial"][index]["interval"] == pytest.approx([want.low, want.high], abs=0.15 * width)


def test_holm_is_the_step_down_procedure(ours):
    order = np.argsort(P_VALUES)
    want = np.empty(len(P_VALUES))
    want[order] = np.maximum.accumulate(
        [min(1, (len(P_VALUES) - place) * P_VALUES[i]) for place, i in enumerate(order)]
    )
    assert ours["holm"] == pytest.approx(want.tolist(), rel=1e-12)
