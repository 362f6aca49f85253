"""lmhead report: what the page says of runs and studies, broken and unfinished ones too."""

import json
import math

import pytest
from lmhead.report import facts, runs, words
from report_fixtures import TOKENS_A_STEP, VOCAB_SIZE, make_run, make_study, panel, report_of


def test_every_arm_is_in_the_first_table_with_its_figures(tmp_path):
    losses = make_study(tmp_path / "study")
    page = report_of(tmp_path / "study")
    head, *rows = page.tables[0]
    assert [row[0] for row in rows] == ["rank=4", "rank=16", "full"]  # the study's order
    column = next(index for index, name in enumerate(head) if name.startswith("validation loss"))
    for row in rows:
        assert row[column] == f"{losses[row[0], 0]:.4f}"
        assert row[-1] == "finished"
    above = next(index for index, name in enumerate(head) if name.startswith("above lowest"))
    assert rows[2][above] == "lowest"
    assert rows[0][above] == f"+{losses['rank=4', 0] - losses['full', 0]:.4f}"


def test_the_summary_names_the_lowest_arm_by_how_much_and_claims_nothing_from_one_seed(tmp_path):
    losses = make_study(tmp_path / "study")
    page = report_of(tmp_path / "study")
    assert (
        f"Arm “full” ends with the lowest validation loss: {losses['full', 0]:.4f} nats per token"
        in page.text
    )
    gap = losses["rank=16", 0] - losses["full", 0]
    assert f"“rank=16” by {gap:.4f} ({gap / 2.6:.4f} bits per byte)" in page.text
    assert "one seed: nothing about significance can be said" in page.text
    assert "95 % interval" not in page.text


def test_intervals_are_those_of_the_study(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    losses = make_study(tmp_path / "study", seeds=4)
    study = runs.read(tmp_path / "study")
    comparison = facts.compare(study)
    assert [entry.arm.name for entry in comparison.ranking] == ["full", "rank=16", "rank=4"]
    for entry in comparison.ranking[1:]:
        ours = [losses[entry.arm.name, seed] for seed in range(4)]
        oracle = stats.ttest_rel(ours, [losses["full", seed] for seed in range(4)]).confidence_interval(0.95)
        assert entry.difference.interval == pytest.approx((oracle.low, oracle.high), rel=1e-9)
    assert "“full” is the lower one in 8 of 8 comparisons on the same seed" in words.summary(study)[1]


def test_an_order_within_noise_is_called_unsettled(tmp_path):
    study = tmp_path / "study"
    for arm, shifts in (("a", (0.0, 0.02, 0.0)), ("b", (0.02, 0.0, 0.01))):
        for seed, shift in enumerate(shifts):
            make_run(study / "runs" / arm / f"seed-{seed}", seed=seed, loss_shift=shift)
    assert any(
        "Against “b” the interval includes zero or is missing: that order is not settled" in line
        for line in words.summary(runs.read(study))
    )


def test_the_destroyed_ratio_never_stands_without_its_null(tmp_path):
    make_study(tmp_path / "study")
    page = report_of(tmp_path / "study")
    head = page.tables[0][0]
    place = next(index for index, name in enumerate(head) if name.startswith("destroyed ratio"))
    assert head[place + 1].startswith("null") and head[place + 2].startswith("excess")
    lines = panel(page, "destroyed-ratio")["lines"]
    assert {line["arm"] for line in lines if line["kind"] == "null"} == {
        line["arm"] for line in lines if line["kind"] == "seed"
    }
    null = math.sqrt(1 - 4 / (VOCAB_SIZE - 1))
    assert f"null {null * 100:.2f} %" in page.text or f"would lose {null * 100:.2f} %" in page.text
    assert "Every head keeps more than a random subspace would." in page.text
    assert "mostly geometry" in page.text and "2603.10145" in page.text and "2608.16671" in page.text


def test_every_run_has_its_loss_against_tokens_and_wall_clock(tmp_path):
    make_study(tmp_path / "study", seeds=2)
    page = report_of(tmp_path / "study")
    for name in (
        "validation-tokens",
        "validation-time",
        "training-tokens",
        "training-time",
        "destroyed-ratio",
        "spectrum",
    ):
        seeds = [
            (line["arm"], line["label"]) for line in panel(page, name)["lines"] if line["kind"] == "seed"
        ]
        assert sorted(seeds) == [(arm, f"seed {seed}") for arm in range(3) for seed in range(2)], name
    mean = next(
        line
        for line in panel(page, "validation-tokens")["lines"]
        if line["kind"] == "mean" and line["arm"] == 0
    )
    pair = [
        line["y"]
        for line in panel(page, "validation-tokens")["lines"]
        if line["kind"] == "seed" and line["arm"] == 0
    ]
    assert mean["y"] == pytest.approx([(a + b) / 2 for a, b in zip(*pair)], rel=1e-5)
    spectrum = next(line for line in panel(page, "spectrum")["lines"] if line["arm"] == 0)
    assert len(spectrum["y"]) == 4  # the rank-4 head: rounding is not drawn


def test_a_single_run_is_a_study_of_one_arm(tmp_path):
    loss = make_run(tmp_path / "run")
    page = report_of(tmp_path / "run")
    assert f"it ends at a validation loss of {loss:.4f} nats per token" in page.text
    assert "One run with one seed" in page.text
    assert "lmhead train" in page.text and "config.json" in page.text
    assert ["optimizer.betas", "[0.9, 0.95]"] in [row for table in page.tables for row in table]


def test_the_configuration_shows_what_arms_differ_in_and_all_they_share(tmp_path):
    make_study(tmp_path / "study", seeds=2)
    page = report_of(tmp_path / "study")
    different = next(table for table in page.tables if "head.rank" in table[0])
    assert different[0] == ["arm", "head.type", "head.rank"]  # not the seed
    assert different[1][1:] == ['"low_rank"', "4"]
    shared = next(table for table in page.tables if table[0] == ["key", "value"])
    assert ["model.num_hidden_layers", "4"] in shared
    assert "lmhead study" in page.text and "c0ffee" in page.text and "2.13.0" in page.text


def test_unfinished_stopped_and_diverged_runs_are_labelled_and_not_ranked(tmp_path):
    study = tmp_path / "study"
    make_run(study / "runs/done/seed-0")
    make_run(study / "runs/going/seed-0", logged=31, state=None, loss_shift=-2.0)
    make_run(study / "runs/halted/seed-0", logged=20, state="stopped", loss_shift=-2.0)
    make_run(study / "runs/broken/seed-0", loss_shift=-2.0)
    log = study / "runs/broken/seed-0/log.jsonl"
    lines = log.read_text().splitlines()
    lines[40] = json.dumps({"step": 41, "tokens": 41 * TOKENS_A_STEP, "loss": None})
    log.write_text("\n".join(lines) + "\n")
    page = report_of(study)
    states = {row[0]: row[-1] for row in page.tables[0][1:]}
    assert states == {
        "done": "finished",
        "going": "unfinished, step 31 of 60",
        "halted": "stopped, step 20 of 60",
        "broken": "diverged at step 41 of 60",
    }
    assert "Arm “done” ends at a validation loss" in page.text
    assert "1 run diverged" in page.text and "2 runs are not finished" in page.text
    dashed = {
        line["arm"]: line["dashed"]
        for line in panel(page, "training-tokens")["lines"]
        if line["kind"] == "seed"
    }
    assert [page.data["arms"][arm]["name"] for arm, value in sorted(dashed.items()) if not value] == ["done"]


def test_planned_arms_keep_their_names_and_order_and_missing_runs_are_counted(tmp_path):
    study = tmp_path / "study"
    make_run(study / "runs/full--linear-/seed-0")  # every other character of a name is a - in its folder
    make_run(study / "runs/rank-4/seed-0", rank=4)
    arms = [{"name": "rank 4"}, {"name": "full (linear)"}, {"name": "later"}]
    (study / "study.json").write_text(json.dumps({"arms": arms, "seeds": [0, 1], "description": "Why <b>."}))
    page = report_of(study)
    assert [row[0] for row in page.tables[0][1:]] == ["rank 4", "full (linear)"]
    assert "4 planned runs have not begun." in page.text and "Why <b>." in page.text


def test_broken_files_are_read_as_far_as_they_go(tmp_path):
    make_run(tmp_path / "run", state=None)
    log = tmp_path / "run/log.jsonl"
    lines = log.read_text().splitlines()
    lines[3] = "{broken"
    lines[5] = "[" * 5000
    lines[7] = '{"step": 8, "tokens": 8192, "loss": NaN, "validation": {"loss": 1e999}}'
    lines[9] = '{"step": 10, "tokens": "many", "loss": true, "learning_rate": 1' + "0" * 400 + "}"
    log.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n" + b'{"step": 61, "tok')
    (tmp_path / "run/summary.json").write_text("[1, 2")
    page = report_of(tmp_path / "run")
    assert "3 unreadable lines skipped" in page.text
    assert "the last line is cut short" in page.text
    assert "summary.json is no readable JSON object" in page.text
    assert "diverged at step 8" in page.text
    y = next(line["y"] for line in panel(page, "training-tokens")["lines"] if line["kind"] == "raw")
    assert y.count(None) == 1  # the NaN is a gap, not a zero


def test_a_run_that_was_resumed_keeps_the_later_line_of_a_step(tmp_path):
    make_run(tmp_path / "run")
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write('{"step": 30, "tokens": 30720, "loss": 1.25}\n')
    run = runs.read(tmp_path / "run").runs[0]
    assert run.log["loss"][30] == 1.25 and list(run.log["loss"]) == list(range(1, 61)) and run.last_step == 60


@pytest.mark.parametrize("missing", ["validation", "retention"])
def test_a_page_without_some_figures_says_so(tmp_path, missing):
    make_run(tmp_path / "run", **{missing: False})
    page = report_of(tmp_path / "run")
    assert "Nothing of this was logged." in page.text
    assert ("no validation loss" if missing == "validation" else "retention was not measured") in page.text


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    assert "no step logged" in report_of(tmp_path / "run").text
