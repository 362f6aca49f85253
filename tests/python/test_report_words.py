"""lmhead report: how curves and numbers are made readable."""

import math

import pytest
from lmhead.page.labels import short_labels
from lmhead.page.panels import thin
from lmhead.report import figures, runs

from lmhead import formats


def test_long_logs_are_thinned_but_keep_their_spikes():
    values = [1.0] * 100_000
    values[54_321], values[77_777], values[3] = 9.0, -9.0, math.nan
    x, y = thin([float(place) for place in range(100_000)], values, 1000)
    assert len(x) <= 1100 and (x[0], x[-1]) == (0.0, 99_999.0)
    assert (54_321.0, 9.0) in zip(x, y) and (77_777.0, -9.0) in zip(x, y)
    assert x == sorted(x) and any(math.isnan(value) for value in y)


def test_smoothing_is_a_centred_mean_that_a_nan_does_not_spread_through():
    ramp = [float(place) for place in range(500)]  # so that the mean reaches 5 values either way
    assert figures.smoothed(ramp)[:495] == pytest.approx(ramp[:495])
    assert figures.smoothed(ramp)[-1] == pytest.approx(sum(ramp[-6:]) / 6)
    ramp[100] = math.nan
    assert [place for place, value in enumerate(figures.smoothed(ramp)) if math.isnan(value)] == [100]


def test_numbers_read_well():
    assert [formats.si(value) for value in (1_234_567, 999, 0.5, 3000, math.nan)] == [
        "1.23\u00a0M",
        "999",
        "0.5",
        "3\u00a0k",
        "—",
    ]
    assert (
        formats.fixed(-0.01234, 4, sign=True) == "−0.0123"
        and formats.fixed(-0.0, sign=True) == "0.0000"
    )
    assert sorted(["rank-16", "rank-4", "full"], key=runs.natural_order) == [
        "full",
        "rank-4",
        "rank-16",
    ]
    arms = [f"head.type=low_rank, head.rank={rank}" for rank in (4, 16)]
    assert short_labels(arms) == ["rank=4", "rank=16"]
    arms = ["rank 4", "rank 16", "full rank (linear)"]
    assert short_labels(arms) == ["rank 4", "rank 16", "full rank (linear)"]
