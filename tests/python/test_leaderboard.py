"""lmhead leaderboard: what a board asks for, who goes on, what the page says, and a board of two entries from end to end."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from lmhead.command import RequestError
from lmhead.leaderboard import board as boards
from lmhead.leaderboard import costs, page, standings, studies
from test_study_command import wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
LMHEAD = ROOT / "build/release/bin/lmhead"
BASE = {
    "data": {"kind": "spamlang", "spamlang": {"vocab_size": 16}, "batch_size": 4, "sequence_length": 8, "validation_tokens": 64},
    "model": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "optimizer": {"learning_rate": 0.003, "groups": [{"pattern": "lm_head.*", "learning_rate_scale": 1}]},
    "schedule": {"warmup_steps": 2},
    "training": {"steps": 8, "threads": 1, "validate_every": 4, "checkpoint_every": 0},
    "observe": {"diagnostics": {"every": 4, "gradient_retention": True}},
}
BOARD = {
    "name": "small",
    "description": "Two heads.",
    "baseline": "linear",
    "base": BASE,
    "steps": 8,
    "search": {"keys": {"optimizer.learning_rate": {"values": [0.003, 0.01], "factor": 3}}, "seeds": [100], "max_extensions": 0},
    "seeds": [0, 1],
    "entries": [{"name": "linear", "set": {}}, {"name": "rank 2", "set": {"head.type": "low_rank", "head.rank": 2}, "note": "narrow"}],
    "stages": [{"name": "first", "title": "Eight steps"}],
    "costs": "costs.jsonl",
}


def board_of(tmp_path, **changes):
    file = tmp_path / "board.json"
    file.write_text(json.dumps({**BOARD, **changes}))
    return boards.read(file)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"baseline": "other"}, "baseline must be the name of an entry, got 'other'"),
        ({"entries": []}, "entries must have names of their own, got none"),
        ({"entries": [{"name": "linear"}, {"name": "linear"}]}, "linear twice"),
        ({"entries": [{"name": "linear", "sets": {}}]}, "known members only, got 'sets'"),
        ({"entries": ["linear"]}, "entries[0] must be an object, got text 'linear'"),
        ({"steps": True}, "board.steps must be number, got boolean True"),
        ({"steps": 0}, "steps must be positive"),
        ({"seeds": [1, "2"]}, "board.seeds must hold only numbers, got text '2'"),
        ({"stages": [{"name": "a", "title": "A", "equal": ["money"]}]}, "equal must hold time or tokens, got ['money']"),
        ({"stages": [{"name": "a", "title": "A", "entries": {"gaining_in": "b"}}]}, "gaining_in must be an earlier stage, got 'b'"),
        ({"surprise": 1}, "known members only, got 'surprise'"),
    ],
)
def test_a_wrong_board_is_one_line(tmp_path, changes, words):
    with pytest.raises(RequestError) as error:
        board_of(tmp_path, **changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_json_is_one_line(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(RequestError, match="must be JSON"):
        boards.read(tmp_path / "deep.json")
    with pytest.raises(RequestError, match="readable board file"):
        boards.read(tmp_path / "none.json")


def test_a_dearer_entry_gets_fewer_steps_with_a_schedule_of_their_own(tmp_path):
    board = board_of(tmp_path)
    stage = board.stages[0]
    study = studies.study_of(board, stage, "time", list(board.entries), {"linear": 1, "rank 2": 2.0})
    assert study["arms"][0]["set"] == {}
    assert study["arms"][1]["set"] == {
        "head.type": "low_rank",
        "head.rank": 2,
        "training.steps": 4,
        "training.validate_every": 2,
        "schedule.warmup_steps": 1,
        "observe.diagnostics.every": 2,
    }
    equal_tokens = studies.study_of(board, stage, "tokens", list(board.entries), {})
    assert "training.steps" not in equal_tokens["arms"][1]["set"]


def test_a_search_of_an_entry_replaces_only_the_keys_that_it_names(tmp_path):
    other_rates = {"values": [0.3, 1.0], "factor": 3}
    entries = [
        {"name": "linear"},
        {"name": "by signs", "search": {"keys": {"optimizer.groups.0.learning_rate_scale": other_rates}, "rounds": 3}},
        {"name": "untuned", "search": False},
    ]
    board = board_of(tmp_path, entries=entries)
    study = studies.study_of(board, board.stages[0], "tokens", list(board.entries), {})
    keys = BOARD["search"]["keys"] | {"optimizer.groups.0.learning_rate_scale": other_rates}
    assert [arm.get("search") for arm in study["arms"]] == [None, {"keys": keys, "rounds": 3}, False]


@pytest.mark.parametrize("cost, steps", [(1.0, 600), (1.019, 600), (0.981, 600), (1.03, 583), (0.5, 1200), (4.0, 150), (1e5, 1)])
def test_steps_at_equal_time(cost, steps):
    assert studies.steps_at_cost(600, cost, 0.02) == steps


def comparison(name, difference, low, high):
    return {"arm": name, "baseline": "linear", "mean_difference": difference, "interval": [low, high]}


def arm(name, finished=True):
    return {"arm": name, "search_finished": finished, "missing": 0 if finished else 1}


def test_who_goes_on(tmp_path):
    entries = [{"name": name} for name in ("linear", "gains", "level", "best of the rest", "loses", "late", "always")]
    stages = [
        {"name": "first", "title": "First"},
        {"name": "second", "title": "Second", "entries": {"gaining_in": "first", "best_others": 1, "always": ["always"]}},
    ]
    board = board_of(tmp_path, entries=entries, stages=stages)
    earlier = {
        "arms": [arm(entry["name"], entry["name"] != "late") for entry in entries],
        "comparisons": [
            comparison("gains", -0.1, -0.15, -0.05),
            comparison("level", 0.0, -0.05, 0.05),
            comparison("best of the rest", -0.02, -0.05, 0.01),
            comparison("loses", 0.5, 0.4, 0.6),
            comparison("late", -1.0, -1.1, -0.9),
            comparison("always", 0.3, 0.2, 0.4),
        ],
    }
    chosen = standings.chosen_for(board, board.stages[1], earlier)
    assert [entry.name for entry in chosen.entries] == ["linear", "gains", "best of the rest", "always"]
    assert chosen.undecided == ["late"]
    nobody_yet = standings.chosen_for(board, board.stages[1], None)
    assert [entry.name for entry in nobody_yet.entries] == ["linear", "always"]
    assert len(nobody_yet.undecided) == 5


def test_a_cost_belongs_to_the_settings_that_were_timed(tmp_path):
    board = board_of(tmp_path)
    file = tmp_path / "costs.jsonl"
    row = {
        "board": "small",
        "base": BASE,
        "settings": {"head.type": "low_rank", "head.rank": 2},
        "baseline_settings": {},
        "ratio": 0.5,
        "low": 0.4,
        "high": 0.6,
        "rounds": 3,
        "machine": "m",
    }
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "settings": {"head.type": "low_rank", "head.rank": 3}, "ratio": 9}) + "\n")
    assert costs.read(file, board, board.stages[0])["rank 2"] == costs.Cost(0.5, 0.4, 0.6, 3, "m")
    file.write_text(json.dumps({**row, "ratio": "fast"}) + "\n")
    with pytest.raises(RequestError, match=r"costs.jsonl:1 must have ratio, low and high"):
        costs.read(file, board, board.stages[0])
    file.write_text('{"board": \n')
    with pytest.raises(RequestError, match=r"costs.jsonl:1 must be a row of costs"):
        costs.read(file, board, board.stages[0])


def test_a_head_costs_what_its_benchmark_says(tmp_path):
    model = {"hidden_size": 8, "num_hidden_layers": 1}
    base = {"data": {"batch_size": 4, "sequence_length": 16}, "model": model, "head": {"type": "linear"}}
    entries = [
        {"name": "linear"},
        {"name": "rank 2", "set": {"head.type": "low_rank", "head.rank": 2}},
        {"name": "rank 3", "set": {"head.type": "low_rank", "head.rank": 3}},
        {"name": "both", "set": {"head.type": "low_rank", "head.rank": 2, "optimizer.type": "muon"}},
    ]
    board = board_of(tmp_path, base=base, entries=entries)
    common = {"metric": "seconds", "shape": {"N": 64, "D": 8, "V": 50}, "threads": 1, "machine": "m", "rounds": 5}
    head = common | {"settings": {"type": "low_rank", "rank": 2}, "median": 0.1, "linear": 0.2, "ratio_to_linear": 0.5, "ratio_quantiles": [0.4, 0.7]}
    whole = common | {"entrant": "whole training step with linear", "model": model, "median": 0.8}
    file = tmp_path / "heads.jsonl"

    def read(*rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return costs.read(tmp_path / "costs.jsonl", board, board.stages[0])

    found = read(head, whole)
    assert set(found) == {"linear", "rank 2"}
    # A head of half the cost, which is a quarter of the step, saves an eighth of it.
    cost = found["rank 2"]
    assert (cost.ratio, cost.low, cost.high) == pytest.approx((0.875, 0.85, 0.925)) and cost.rounds == 5
    for other in (whole | {"machine": "n"}, whole | {"model": {**model, "num_hidden_layers": 2}}, whole | {"threads": 2}):
        assert set(read(head, other)) == {"linear"}
    assert set(read(head | {"shape": {"N": 64, "D": 9, "V": 50}}, whole)) == {"linear"}
    assert read(head, whole, head | {"ratio_to_linear": 2.0, "ratio_quantiles": [2, 2]})["rank 2"].ratio == pytest.approx(1.25)


def search_of(outcomes):
    return {"seeds": [], "search": [{"key": "optimizer.learning_rate", "candidates": [{"value": 0.003, "outcomes": outcomes}]}]}


def part_of(board, *arms):
    return page.Part(board.stages[0], "time", {"arms": list(arms), "comparisons": [], "runs": {}}, {}, [])


def test_what_nobody_has_begun_takes_a_line(tmp_path):
    entries = [{"name": "linear"}, {"name": "rank 2", "note": "narrow"}, {"name": "rank 3", "note": "wider"}]
    board = board_of(tmp_path, entries=entries)
    begun, not_begun = search_of([2.5, None]), search_of([None, None])
    arms = [arm("linear", False) | begun, arm("rank 2", False) | not_begun, arm("rank 3", False) | not_begun]
    nothing = page.render(board, [part_of(board, *arms)], "lmhead leaderboard b.json")
    assert "## Not begun\n\n- Eight steps, at equal time\n" in nothing and "## Eight steps" not in nothing
    arms[2] = arm("rank 3", False) | begun
    text = page.render(board, [part_of(board, *arms)], "lmhead leaderboard b.json")
    assert "## Eight steps, at equal time" in text and "wider" in text and "narrow" not in text
    assert "Not finished: linear: still searched; rank 3: still searched." in text and "Not begun: rank 2." in text


def test_names_are_text_on_the_page(tmp_path):
    entries = [{"name": "linear"}, {"name": "<b>|*x*", "note": "a\n# b"}]
    board = board_of(tmp_path, entries=entries, description="<script>")
    text = page.render(board, [part_of(board, arm("<b>|*x*", False) | search_of([2.5, None]))], "lmhead leaderboard b.json")
    assert "\\<script>" in text and "<script>" not in text.replace("\\<", "")
    assert "\\<b>\\|\\*x\\*: still searched" in text and "<b>" not in text.replace("\\<", "")
    assert "a # b" in text and "\n#" not in text.replace("\n## ", "")


def leaderboard(folder, *arguments):
    command = [sys.executable, "-m", "lmhead.leaderboard.command", "board.json", "--rows", "rows", "--page", "page.md", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.skipif(not LMHEAD.is_file(), reason="lmhead is not built")
def test_a_board_from_end_to_end(tmp_path):
    (tmp_path / "board.json").write_text(json.dumps(BOARD))
    without = leaderboard(tmp_path)
    assert without.returncode == 2
    assert without.stderr.splitlines()[-1].endswith("got none of rank 2; --measure-costs --stage first measures it")

    timed = leaderboard(tmp_path, "--measure-costs", "--rounds", "1")
    assert timed.returncode == 0, timed.stderr
    (row,) = [json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines()]
    assert row["entry"] == "rank 2" and 0 < row["ratio"] < 100
    (tmp_path / "costs.jsonl").write_text(json.dumps({**row, "ratio": 2.0, "low": 1.9, "high": 2.1}) + "\n")

    done = leaderboard(tmp_path, "--discard-runs")
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "page.md").read_bytes()
    text = first.decode()
    assert text.count("| baseline |") == 2 and "2.000 [1.900, 2.100]" in text
    assert "narrow" in text and "at equal time" in text and "at equal tokens" in text
    rows = [json.loads(line) for file in (tmp_path / "rows").glob("*.jsonl") for line in file.read_text().splitlines()]
    steps = {(row["arm"], row["curve"]["step"][-1]) for row in rows}
    assert steps == {("linear", 8), ("rank 2", 8), ("rank 2", 4)}

    # Nothing is left to do, and the page has the same bytes; a page from another folder's rows has none of them.
    again = leaderboard(tmp_path)
    assert again.returncode == 0 and (tmp_path / "page.md").read_bytes() == first
    assert len(rows) == sum(len(file.read_text().splitlines()) for file in (tmp_path / "rows").glob("*.jsonl"))
    dry = leaderboard(tmp_path, "--dry-run")
    assert dry.returncode == 0 and "to do" not in dry.stdout


@pytest.mark.skipif(not LMHEAD.is_file(), reason="lmhead is not built")
@pytest.mark.parametrize("to_group", [True, False], ids=["group", "parent"])
def test_an_interruption_saves_the_run_that_is_going_on(tmp_path, to_group):
    base = {**BASE, "training": {**BASE["training"], "steps": 10**6, "validate_every": 0}, "observe": {}}
    (tmp_path / "board.json").write_text(json.dumps({**BOARD, "base": base, "steps": 10**6}))
    command = [sys.executable, "-m", "lmhead", "leaderboard", "board.json", "--rows", "rows", "--equal", "tokens"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: any(log.read_bytes().count(b"\n") > 5 for log in tmp_path.rglob("log.jsonl")))
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with the same command" in said and "Traceback" not in said
    (summary,) = [json.loads(file.read_text()) for file in tmp_path.rglob("summary.json")]
    assert summary["state"] == "stopped"
    assert len(list(tmp_path.rglob("checkpoints/step-*"))) == 1


@pytest.mark.skipif(not LMHEAD.is_file(), reason="lmhead is not built")
def test_a_run_that_fails_is_1_and_costs_only_itself(tmp_path):
    entries = [*BOARD["entries"], {"name": "lost", "set": {"training.initial_weights": "nowhere.safetensors"}}]
    (tmp_path / "board.json").write_text(json.dumps({**BOARD, "entries": entries}))
    done = leaderboard(tmp_path, "--equal", "tokens")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("[leaderboard] wrote page.md; runs failed of lost at equal tokens (first): ")
    assert "lost" in (tmp_path / "page.md").read_text()
    rows = [json.loads(line) for file in (tmp_path / "rows").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert {row["arm"] for row in rows} == {"linear", "rank 2"}


def test_wrong_arguments_are_one_line(tmp_path):
    (tmp_path / "board.json").write_text(json.dumps(BOARD))
    for arguments, words in (
        (["--stage", "second"], "--stage must be one of first, got 'second'"),
        (["--entries", "nobody"], "--entries must name entries of the board, got 'nobody'"),
        (["--equal", "money"], "invalid choice"),
        (["--jobs", "0"], "--jobs and --rounds must be at least 1"),
    ):
        done = leaderboard(tmp_path, *arguments)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_board_of_the_project_is_one():
    board = boards.read(ROOT / "studies/leaderboard/leaderboard.json")
    assert board.baseline == "linear" and len(board.entries) >= 5


@pytest.mark.skipif(not LMHEAD.is_file(), reason="lmhead is not built")
def test_the_page_of_the_project_is_what_its_rows_say(tmp_path):
    board = "studies/leaderboard/leaderboard.json"
    command = ["leaderboard", board, "--page-only", "--page", str(tmp_path / "leaderboard.md"), "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "lmhead", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page_or_plot in (tmp_path / "leaderboard.md", *tmp_path.glob("*.svg")):
        assert page_or_plot.read_bytes() == (ROOT / "docs" / page_or_plot.name).read_bytes()
