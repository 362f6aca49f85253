"""lmhead report: what the page says, how it shows broken runs, and that nothing in a run's files can run."""

import html.parser
import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from lmhead import (
    report,
    report_facts,
    report_figures,
    report_page,
    report_picture,
    report_runs,
    report_text,
    report_words,
)  # noqa: E402

VOCAB_SIZE, HIDDEN_SIZE, TOKENS_A_STEP = 4096, 128, 1024


def make_run(
    folder,
    rank=HIDDEN_SIZE,
    seed=0,
    steps=60,
    logged=None,
    loss_shift=0.0,
    state="finished",
    validation=True,
    retention=True,
    **configuration,
):
    """Writes a run with made-up curves (no summary where `state` is None); returns its validation loss."""
    folder.mkdir(parents=True)
    draw = random.Random(f"{rank} {seed}")
    config = {
        "data": {"path": "data/corpus", "batch_size": 8},
        "model": {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": 4},
        "head": {"type": "low_rank" if rank < HIDDEN_SIZE else "linear", "rank": rank},
        "optimizer": {"type": "adamw", "learning_rate": 0.001, "betas": [0.9, 0.95]},
        "training": {"steps": steps, "seed": seed},
        **configuration,
    }
    (folder / "config.json").write_text(json.dumps(config))
    final = None
    with (folder / "log.jsonl").open("w") as log:
        for step in range(1, (steps if logged is None else logged) + 1):
            floor = 3.1 + 1.8 / math.sqrt(rank) + loss_shift + draw.gauss(0, 0.003)
            loss = floor + 5.2 * math.exp(-step / (0.11 * steps)) + 0.5 * math.exp(-step / (0.5 * steps))
            line = {
                "step": step,
                "tokens": step * TOKENS_A_STEP,
                "loss": loss + draw.gauss(0, 0.08),
                "learning_rate": 1e-3,
                "gradient_norm": 1.0,
                "tokens_per_second": 3000.0,
                "wall_seconds": step * (0.33 + rank / 3000),
            }
            if validation and (step % max(1, steps // 12) == 0 or step == 1):
                line["validation"] = {
                    "loss": loss,
                    "perplexity": math.exp(loss),
                    "bits_per_byte": loss / 2.6,
                    "tokens": 5000,
                    "top1_accuracy": 0.3,
                }
                final = line
            if retention and (step % 10 == 0 or step == 1):
                null = math.sqrt(1 - rank / (VOCAB_SIZE - 1))
                ratio = (
                    null
                    - (1 - null) * (0.1 + 0.9 * math.exp(-step / steps * 4))
                    + draw.gauss(0, 1e-4) * (1 - null)
                )
                line["gradient_retention"] = {
                    "destroyed_ratio": ratio,
                    "null_destroyed_ratio": null,
                    "destroyed_excess": ratio - null,
                    "retained_energy": 1 - ratio**2,
                    "visible_cosine": math.sqrt(1 - ratio**2),
                    "step_cosine": 0.1,
                    "head_rank": rank,
                    "head_condition": 30.0,
                    "tokens": TOKENS_A_STEP,
                }
            log.write(json.dumps(line) + "\n")
    if state is not None:
        summary = {
            "state": state,
            "steps": steps,
            "tokens": steps * TOKENS_A_STEP,
            "wall_seconds": 20.0,
            "measure_seconds": 1.0,
            "tokens_per_second": 3000.0,
            "peak_memory_bytes": 5e8,
            "parameters_head": VOCAB_SIZE * rank,
            "best": {"step": steps, "validation_loss": 3.5},
            "vocab_size": VOCAB_SIZE,
            "hidden_size": HIDDEN_SIZE,
            "head_singular_values": [12.0 / (1 + 0.05 * index) for index in range(rank)]
            + [1e-9] * (HIDDEN_SIZE - rank),
            "dataset": {"content_hash": "c0ffee"},
            "version": "0.1.0",
            "torch_version": "2.13.0",
            "threads": 2,
            "started": "2026-01-02T03:04:05Z",
            "finished": "2026-01-02T03:05:05Z",
        }
        (folder / "summary.json").write_text(json.dumps(summary | ({"final": final} if final else {})))
    return final["validation"]["loss"] if final else None


def make_study(folder, arms=(("rank=4", 4), ("rank=16", 16), ("full", HIDDEN_SIZE)), seeds=1, steps=60):
    """Writes a finished study; returns the last validation losses by (arm, seed)."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"name": "ladder", "seeds": list(range(seeds))}))
    losses, rows = {}, []
    for arm, rank in arms:
        for seed in range(seeds):
            run = f"runs/{re.sub('[^A-Za-z0-9._-]', '-', arm)}/seed-{seed}"
            losses[arm, seed] = make_run(folder / run, rank, seed, steps)
            rows.append(
                {
                    "study": "ladder",
                    "arm": arm,
                    "seed": seed,
                    "run": run,
                    "step": steps,
                    "metric": "validation.loss",
                    "value": losses[arm, seed],
                    "unit": "nats per token",
                }
            )
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return losses


class Page(html.parser.HTMLParser):
    """The page's elements, its visible text, its tables as lists of rows, and its scripts."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self.tables, self.scripts, self.inside = [], [], [], [], []
        self.feed(path.read_text())
        self.text = re.sub(r"\s+", " ", " ".join(self.words))
        self.data = json.loads(next(body for kind, body in self.scripts if kind == "application/json"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "script":
            self.scripts.append((dict(attributes).get("type"), ""))
        if tag in ("meta", "br", "line", "path"):
            self.inside.pop()

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if "script" in self.inside:
            self.scripts[-1] = self.scripts[-1][0], self.scripts[-1][1] + data
        elif "style" not in self.inside:
            self.words.append(data)
            if "td" in self.inside or "th" in self.inside:
                self.tables[-1][-1][-1] += data


def report_of(folder):
    assert report.main([str(folder)]) == 0
    return Page(folder / "report.html")


def panel(page, identity):
    return next(entry for entry in page.data["panels"] if entry["id"] == identity)


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


def test_paired_intervals_match_scipy(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    losses = make_study(tmp_path / "study", seeds=4)
    study = report_runs.read(tmp_path / "study")
    comparison = report_facts.compare(study)
    assert [entry.arm.name for entry in comparison.ranking] == ["full", "rank=16", "rank=4"]
    for entry in comparison.ranking[1:]:
        ours = [losses[entry.arm.name, seed] for seed in range(4)]
        oracle = stats.ttest_rel(ours, [losses["full", seed] for seed in range(4)]).confidence_interval(0.95)
        assert entry.difference.interval == pytest.approx((oracle.low, oracle.high), rel=1e-9)
    assert "“full” is the lower one in 8 of 8 comparisons on the same seed" in report_words.summary(study)[1]


def test_an_order_within_noise_is_called_unsettled(tmp_path):
    study = tmp_path / "study"
    for arm, shifts in (("a", (0.0, 0.02, 0.0)), ("b", (0.02, 0.0, 0.01))):
        for seed, shift in enumerate(shifts):
            make_run(study / "runs" / arm / f"seed-{seed}", seed=seed, loss_shift=shift)
    assert any(
        "Against “b” the interval includes zero or is missing: that order is not settled" in line
        for line in report_words.summary(report_runs.read(study))
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
    run = report_runs.read(tmp_path / "run").runs[0]
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


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> & %{y} "
    "<a href='http://evil.example'>\u202e\ud800"
)


def test_nothing_from_a_file_becomes_markup(tmp_path):
    make_study(tmp_path / "study", arms=((HOSTILE, 4), ("full", 128)))
    for config in (tmp_path / "study").rglob("config.json"):
        value = json.loads(config.read_text())
        value[HOSTILE] = {"<b>": HOSTILE}
        config.write_text(json.dumps(value))
    (tmp_path / "study/study.json").write_text(json.dumps({"name": HOSTILE, HOSTILE: HOSTILE}))
    page = report_of(tmp_path / "study")
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "img" not in tags and "a" not in tags and "b" not in tags
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "\\u{202e}\\u{d800}" in page.text
    assert "<" not in page.data["arms"][0]["name"] and "<" not in page.data["arms"][0]["label"]


def test_the_page_asks_nothing_of_a_network(tmp_path):
    make_study(tmp_path / "study")
    page = report_of(tmp_path / "study")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img"), tag
        for name, value in attributes.items():
            assert name not in ("src", "href", "action", "srcset"), (tag, name)
            assert "http:" not in (value or "") and "https:" not in (value or ""), (tag, name)
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "http" not in policy
    drawing = (Path(report_page.__file__).parent / "report.js").read_text()
    assert "displayModeBar: false, showSendToCloud: false" in drawing
    style = (Path(report_page.__file__).parent / "report.css").read_text()
    assert "url(" not in style and "@import" not in style
    assert (tmp_path / "study/report.html").stat().st_size < 8e6


def test_a_browser_draws_every_panel_and_runs_nothing_else(tmp_path):
    browser = next((found for name in report_picture.BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium")
    make_study(tmp_path / "study", arms=((HOSTILE, 4), ("<b>full</b> %{y}", 128)))
    report_of(tmp_path / "study")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--dump-dom",
        "--virtual-time-budget=5000",
        f"--user-data-dir={tmp_path}/profile",
        (tmp_path / "study/report.html").as_uri(),
    ]
    try:
        drawn = subprocess.run(command, capture_output=True, timeout=120, text=True, errors="replace").stdout
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium does not answer here")
    if "<html" not in drawn:
        pytest.skip("Chromium does not start here")
    body = drawn[: drawn.index('<script type="application/json"')]
    for name in (entry["id"] for entry in report_of(tmp_path / "study").data["panels"]):
        drawing = body[body.index(f'id="{name}"') :].split("</figure>")[0]
        assert drawing.count('class="js-line"') >= 2, name
    assert (
        "&lt;b&gt;full&lt;/b&gt; %{y}" in body
        and "<b>full" not in body
        and "<img" not in body
        and "<a " not in body
    )
    assert "modebar-btn" not in body


def test_a_picture_without_a_browser_is_refused(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")
    monkeypatch.setattr(report_picture.shutil, "which", lambda name: None)
    assert report.main([str(tmp_path / "run"), "--picture", str(tmp_path / "picture.png")]) == 2
    assert "a picture needs one of chromium" in capsys.readouterr().err


def test_long_logs_are_thinned_but_keep_their_spikes():
    values = [1.0] * 100_000
    values[54_321], values[77_777], values[3] = 9.0, -9.0, math.nan
    x, y = report_figures.thin([float(place) for place in range(100_000)], values, 1000)
    assert len(x) <= 1100 and (x[0], x[-1]) == (0.0, 99_999.0)
    assert (54_321.0, 9.0) in zip(x, y) and (77_777.0, -9.0) in zip(x, y)
    assert x == sorted(x) and any(math.isnan(value) for value in y)


def test_smoothing_is_a_centred_mean_that_a_nan_does_not_spread_through():
    ramp = [float(place) for place in range(500)]  # so that the mean reaches 5 values either way
    assert report_figures.smoothed(ramp)[:495] == pytest.approx(ramp[:495])
    assert report_figures.smoothed(ramp)[-1] == pytest.approx(sum(ramp[-6:]) / 6)
    ramp[100] = math.nan
    assert [place for place, value in enumerate(report_figures.smoothed(ramp)) if math.isnan(value)] == [100]


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda path: [str(path / "nowhere")], "which is no folder"),
        (lambda path: [str(path)], "must hold a run"),
        (lambda path: [], "RUN-OR-STUDY"),
        (lambda path: [str(path), "--colour"], "RUN-OR-STUDY"),
        (
            lambda path: [
                make_run(path / "run") and str(path / "run"),
                "--out",
                str(path / "no/such/file.html"),
            ],
            "must be writable",
        ),
        (lambda path: [make_run(path / "run") and str(path / "run"), "--out", str(path)], "must name a file"),
        (
            lambda path: [(path / "study.json").write_text("{}") and str(path)],
            "must hold a run that has begun",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path, capsys, make, expected):
    assert report.main(make(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("[report] ") and expected in error and error.count("\n") == 1


def test_a_failed_write_leaves_the_old_report_and_no_litter(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    (tmp_path / "run/report.html").write_text("old")
    monkeypatch.setattr(
        report.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    before = sorted(tmp_path.rglob("*"))
    assert report.main([str(tmp_path / "run")]) == 2
    assert (tmp_path / "run/report.html").read_text() == "old" and sorted(tmp_path.rglob("*")) == before


def test_numbers_read_well():
    assert [report_words.si(value) for value in (1_234_567, 999, 0.5, 3000, math.nan)] == [
        "1.23\u00a0M",
        "999",
        "0.5",
        "3\u00a0k",
        "–",
    ]
    assert (
        report_words.fixed(-0.01234, 4, sign=True) == "−0.0123"
        and report_words.fixed(-0.0, sign=True) == "0.0000"
    )
    assert sorted(["rank-16", "rank-4", "full"], key=report_runs.natural_order) == [
        "full",
        "rank-4",
        "rank-16",
    ]
    arms = [report_runs.Arm(f"head.type=low_rank, head.rank={rank}", []) for rank in (4, 16)]
    assert report_text.short_labels(arms) == ["rank=4", "rank=16"]
    arms = [report_runs.Arm(name, []) for name in ("rank 4", "rank 16", "full rank (linear)")]
    assert report_text.short_labels(arms) == ["rank 4", "rank 16", "full rank (linear)"]
