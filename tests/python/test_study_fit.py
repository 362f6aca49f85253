"""Fits over the places of a study: a planted slope, coverage of the intervals, what is lacking, and how it is told."""

import copy

import numpy as np
import pytest
from scipy import stats

from lmhead.study import document, figures, fit

PREDICTORS = [
    {"name": "log2(V/D)", "quantity": "V/D", "log2": True},
    {"name": "log2(tokens)", "quantity": "tokens", "log2": True},
]
PLACES = [(8, 4e5), (32, 4e5), (128, 4e5), (8, 8e5), (32, 8e5), (128, 8e5), (32, 3.2e6)]
PREDICT = [{"name": "inside", "quantities": [64.0, 5e5]}, {"name": "124 M", "quantities": [65.4, 2.5e9]}]
SLOPES = {"constant": -0.05, "V/D": 0.02, "tokens": -0.01}


def planted(ratio, tokens):
    return SLOPES["constant"] + SLOPES["V/D"] * np.log2(ratio) + SLOPES["tokens"] * np.log2(tokens / 1e6)


def made(noise, draw, seeds=5, places=PLACES, bend=0.0):
    points = []
    for place in places:
        differences = planted(*place) + bend * (np.log2(place[0]) - 5) ** 2 + noise * draw.normal(size=seeds)
        points.append(
            {
                "place": f"V/D = {place[0]}, {place[1]:g}",
                "quantities": list(map(float, place)),
                "seeds": list(range(seeds)),
                "differences": differences.tolist(),
                "interval": [float(differences.min()), float(differences.max())],
            }
        )
    return {"figure": "validation.loss", "unit": "nats/token", "baseline": "exact", "arm": "narrow", "points": points, "missing": []}


def fitted(one):
    return fit.fitted(one, PREDICTORS, PREDICT)


def test_a_planted_plane_is_recovered():
    got = fitted(made(0, np.random.default_rng(0)))
    assert [slope["value"] for slope in got["slopes"]] == pytest.approx([SLOPES["V/D"], SLOPES["tokens"]], rel=1e-10)
    for point, want in zip(got["predictions"], (planted(64, 5e5), planted(65.4, 2.5e9)), strict=True):
        assert point["value"] == pytest.approx(want, rel=1e-10)
        assert point["interval"] == pytest.approx([want, want], rel=1e-10)
        assert point["without_a_place"] == pytest.approx([want, want], rel=1e-9)
    assert got["residual"] < 1e-12 and got["left_out_error"] < 1e-12 and got["chance"] == 0
    assert got["left_out_places"] == len(PLACES)
    assert got["centre"] == pytest.approx([np.exp2(np.mean(np.log2(column))) for column in np.transpose(PLACES)])
    assert fit.value_at(got, PREDICTORS, [16.0, 2e6]) == pytest.approx(planted(16, 2e6), rel=1e-10)


def test_coefficients_are_those_of_least_squares_over_all_pairs():
    one = made(0.02, np.random.default_rng(1))
    one["points"][2]["differences"] = one["points"][2]["differences"][:2]  # a place of fewer seeds weighs less
    rows = [(1.0, *np.log2(p["quantities"]), d) for p in one["points"] for d in p["differences"]]
    x, y = np.array(rows)[:, :3], np.array(rows)[:, 3]
    want = np.linalg.lstsq(x, y, rcond=None)[0]
    got = fitted(one)
    assert [slope["value"] for slope in got["slopes"]] == pytest.approx(want[1:], rel=1e-9)
    assert got["predictions"][1]["value"] == pytest.approx([1, *np.log2(PREDICT[1]["quantities"])] @ want, rel=1e-9)
    pooled = sum(np.var(p["differences"]) * len(p["differences"]) for p in one["points"]) / (len(rows) - len(PLACES))
    shares = [pooled / len(p["differences"]) for p in one["points"]]
    assert got["chance"] == pytest.approx(np.sqrt(np.mean(shares)), rel=1e-9)


def test_a_place_left_out_is_predicted_by_the_others():
    one = made(0.02, np.random.default_rng(2))
    got, errors, spread = fitted(one), [], []
    for place in range(len(PLACES)):
        rest = {**one, "points": one["points"][:place] + one["points"][place + 1 :]}
        without = fitted(rest)
        errors.append(np.mean(one["points"][place]["differences"]) - fit.value_at(without, PREDICTORS, list(map(float, PLACES[place]))))
        spread.append(without["predictions"][1]["value"])
    assert got["left_out_error"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)
    assert got["predictions"][1]["without_a_place"] == pytest.approx([min(spread), max(spread)], rel=1e-9)


def test_misfit_shows_where_the_form_is_wrong():
    draw = np.random.default_rng(3)
    right, wrong = fitted(made(0.01, draw)), fitted(made(0.01, draw, bend=0.02))
    assert right["residual"] < 2 * right["chance"] and right["left_out_error"] < 4 * right["chance"]
    assert wrong["residual"] > 4 * wrong["chance"] and wrong["left_out_error"] > 8 * wrong["chance"]


def test_intervals_cover_what_was_planted(monkeypatch):
    monkeypatch.setattr(fit, "RESAMPLES", 1000)
    draw, trials = np.random.default_rng(4), 600
    hits = np.zeros(4)
    for trial in range(trials):
        one = made(0.02, draw)
        one["arm"] = f"trial {trial}"  # a stream of its own
        got = fitted(one)
        found = [*(s["interval"] for s in got["slopes"]), *(p["interval"] for p in got["predictions"])]
        true = [SLOPES["V/D"], SLOPES["tokens"], planted(64, 5e5), planted(65.4, 2.5e9)]
        hits += [low <= value <= high for (low, high), value in zip(found, true, strict=True)]
    # The slope of tokens rests on five seeds of one place. Three standard errors of 600 trials around 95 %.
    low, high = stats.binom.ppf([0.0015, 0.9985], trials, 0.95) / trials
    assert all(low <= share <= high for share in hits / trials), hits / trials


def test_the_same_rows_give_the_same_figures_and_other_arms_other_draws():
    one = made(0.02, np.random.default_rng(5))
    assert fitted(one) == fitted(copy.deepcopy(one))
    other = fitted({**one, "arm": "another"})
    assert other["slopes"][0]["value"] == fitted(one)["slopes"][0]["value"]
    assert other["slopes"][0]["interval"] != fitted(one)["slopes"][0]["interval"]


@pytest.mark.parametrize(
    "places, says",
    [
        ([], "3 coefficients need pairs at 3 places, of which 0 are there"),
        (PLACES[:2], "3 coefficients need pairs at 3 places, of which 2 are there"),
        (PLACES[:3], "log2(tokens) must differ between places, and is the same at all 3 that are there"),
        ([(8, 4e5), (16, 8e5), (32, 16e5)], "the predictors must not determine one another, and do at the 3 places that are there"),
    ],
)
def test_what_a_fit_lacks_is_said(places, says):
    one = made(0.02, np.random.default_rng(6), places=places)
    assert fitted(one) == {"lacking": says}


def test_at_as_many_places_as_coefficients_nothing_is_left_to_check_by():
    got = fitted(made(0.02, np.random.default_rng(7), places=[PLACES[0], PLACES[2], PLACES[4]]))
    assert got["left_out_error"] is None and got["left_out_places"] == 0
    assert got["predictions"][0]["without_a_place"] is None and got["residual"] < 1e-12


def test_seeds_that_bound_nothing_have_no_interval_and_no_word():
    one = made(0.02, np.random.default_rng(10), seeds=2, places=PLACES[:3])
    for place, point in enumerate(one["points"]):
        point["quantities"] = point["quantities"][:1]
        point["differences"][1] += 0.01 if place == 0 else point["differences"][0] - point["differences"][1]
    got = fit.fitted(one, PREDICTORS[:1], [])  # half of all resamples have no spread at all
    assert got["slopes"][0]["interval"] is None and document.slope_words(got) == "no change shown with log2(V/D)"


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_differences_beyond_all_bounds_are_refused_in_words(size):
    one = made(0.02, np.random.default_rng(11))
    for point in one["points"]:
        point["differences"] = [size * value for value in point["differences"]]
    assert fitted(one) == {"lacking": "differences must be small enough to be squared"}


def test_a_point_says_how_far_it_lies_beyond_what_was_measured():
    inside, far = fitted(made(0, np.random.default_rng(8)))["predictions"]
    assert [one["beyond"] for one in inside["reach"]] == [1, 1]
    assert far["reach"][0]["beyond"] == 1
    assert far["reach"][1] == {"quantity": "tokens", "value": 2.5e9, "measured": [4e5, 3.2e6], "beyond": 2.5e9 / 3.2e6}
    below = fit.reach_of(PREDICTORS, made(0, np.random.default_rng(8))["points"], [4.0, 4e5])
    assert below[0]["beyond"] == 2


def statistics_of(*differences):
    return fit.with_fits({"fits": [{"predictors": PREDICTORS, "predict": PREDICT, "differences": list(differences)}]})


def test_the_document_says_it_in_words(tmp_path):
    draw = np.random.default_rng(9)
    gap = {"place": "2.6 M", "why": "0 of at least 2 pairs"}
    done = {**made(0.002, draw), "missing": [gap]}
    lacking = {**made(0.002, draw, places=PLACES[:2]), "arm": "copy", "missing": [gap]}
    statistics = statistics_of(done, lacking)
    text = "\n".join(document.fits_section(statistics))
    assert "rises with log2(V/D); falls with log2(tokens)" in text
    assert "`V/D` 65.4 inside (8 to 128 measured); `tokens` 2.5e9 781 times outside (400,000 to 3,200,000 measured: 9.6 doublings beyond 3.0)" in text
    assert "- copy − exact: no fit yet: 3 coefficients need pairs at 3 places, of which 2 are there." in text
    assert "- 2.6 M: 0 of at least 2 pairs (narrow, copy)" in text
    assert "+0.02" in text and "−0.0" in text
    for name in ("first.svg", "second.svg"):
        assert figures.fits(statistics, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert not figures.fits(statistics_of(lacking), tmp_path / "none.svg") and not (tmp_path / "none.svg").exists()
    assert document.fits_section({}) == [] and not figures.fits({}, tmp_path / "none.svg")
