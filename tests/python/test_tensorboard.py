"""lmhead tensorboard: figures keep their dotted names, converting again replaces, nothing else is removed."""

import json
import math
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

pytest.importorskip("tensorboard")
from lmhead import tensorboard  # noqa: E402


def make_run(folder, losses=(5.0, 4.0, 3.0)):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "summary.json").write_text(
        json.dumps({"state": "finished", "started": "2026-01-02T03:04:05+00:00"})
    )
    with (folder / "log.jsonl").open("w") as log:
        for step, loss in enumerate(losses, 1):
            log.write(
                json.dumps(
                    {
                        "step": step,
                        "tokens": 64 * step,
                        "loss": loss,
                        "wall_seconds": 2.0 * step,
                        "measure_seconds": 0.5,
                        "validation": {"loss": loss + 1, "bits_per_byte": None},
                    }
                )
                + "\n"
            )
        log.write('{"step": 4, "lo')


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value, event.wall_time) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_every_figure_keeps_its_dotted_name_step_value_and_time(tmp_path):
    make_run(tmp_path / "run")
    assert tensorboard.main([str(tmp_path / "run")]) == 0
    found = scalars(tmp_path / "run/tensorboard")
    assert sorted(found) == ["loss", "measure_seconds", "tokens", "validation.loss", "wall_seconds"]
    start = 1767323045.0  # 2026-01-02T03:04:05 UTC
    assert found["validation.loss"] == [(1, 6.0, start + 2.5), (2, 5.0, start + 4.5), (3, 4.0, start + 6.5)]


def test_converting_again_replaces(tmp_path):
    make_run(tmp_path / "run")
    for _ in range(2):
        assert tensorboard.main([str(tmp_path / "run")]) == 0
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1
    assert len(scalars(tmp_path / "run/tensorboard")["loss"]) == 3
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "log.jsonl",
        "summary.json",
        "tensorboard",
    ]


def test_a_study_becomes_a_folder_a_run_and_nan_stays_nan(tmp_path):
    make_run(tmp_path / "study/runs/full/seed-0")
    make_run(tmp_path / "study/runs/rank-4/seed-1", losses=(5.0, math.nan))
    assert tensorboard.main([str(tmp_path / "study"), "--out", str(tmp_path / "deep/board")]) == 0
    board = tmp_path / "deep/board"
    assert [event[1] for event in scalars(board / "full/seed-0")["loss"]] == [5.0, 4.0, 3.0]
    values = [event[1] for event in scalars(board / "rank-4/seed-1")["loss"]]
    assert values[0] == 5.0 and math.isnan(values[1])


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path, capsys):
    make_run(tmp_path / "run")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years")
    assert tensorboard.main([str(tmp_path / "run"), "--out", str(tmp_path / "home")]) == 2
    assert (tmp_path / "home/thesis.txt").read_text() == "years"
    error = capsys.readouterr().err
    assert error.startswith("[tensorboard] ") and "thesis.txt" in error and error.count("\n") == 1


def test_a_wrong_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert tensorboard.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("[tensorboard] a run or study folder must be given")


NOT_UTF8 = os.fsdecode(b"st\xffudy\x1b[31m\n")  # no text, and what would colour a terminal


def test_a_folder_name_that_is_no_text_is_converted_and_spelled_out(tmp_path, capsys):
    make_run(tmp_path / NOT_UTF8 / "runs/full/seed-0")
    assert tensorboard.main([str(tmp_path / NOT_UTF8)]) == 0
    assert "st\\u{dcff}udy\\u{1b}[31m\\n" in capsys.readouterr().out
    (tmp_path / NOT_UTF8 / "tensorboard").rename(tmp_path / "board")
    assert [event[1] for event in scalars(tmp_path / "board/full/seed-0")["loss"]] == [5.0, 4.0, 3.0]
    assert tensorboard.main([str(tmp_path / NOT_UTF8 / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "\x1b" not in error


def test_a_figure_s_name_that_is_no_text_is_spelled_out(tmp_path):
    make_run(tmp_path / "run")
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write('\n{"step": 5, "odd \\ud800": 1.5}\n')
    assert tensorboard.main([str(tmp_path / "run")]) == 0
    assert scalars(tmp_path / "run/tensorboard")["odd \\u{d800}"][0][1] == 1.5


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert tensorboard.main([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'lmhead[tensorboard]'" in error and error.count("\n") == 1
    assert not (tmp_path / "run/tensorboard").exists()
