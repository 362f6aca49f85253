"""lmhead log: every figure of a run in TensorBoard, Weights & Biases and trackio, without a network."""

import json
import os
import sqlite3
import struct
import subprocess
import sys

import pytest
from test_tensorboard import make_run

from lmhead import loggers

FIGURES = {"tokens", "loss", "wall_seconds", "measure_seconds", "validation.loss"}


def log(*arguments):
    """As a process of its own: these programs read their environment when they are imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_"))}
    command = [sys.executable, "-m", "lmhead", "log", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def wandb_history(file):
    """The lines of a small .wandb file: after 7 bytes, records of a checksum, a length, a kind and a message."""
    from wandb.proto import wandb_internal_pb2

    data, place, lines = file.read_bytes(), 7, []
    while place < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, place)
        assert kind == 1
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[place + 7 : place + 7 + length])
        place += 7 + length
        if record.WhichOneof("record_type") == "history":
            lines.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return lines


def test_weights_and_biases_gets_every_figure_offline(tmp_path):
    pytest.importorskip("wandb")
    make_run(tmp_path / "run")
    done = log(tmp_path / "run", "--to", "wandb")
    assert (done.returncode, done.stderr) == (0, "") and "wandb sync" in done.stdout
    (file,) = (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")
    lines = wandb_history(file)
    assert [line["_step"] for line in lines] == [1, 2, 3]
    assert [line["validation.loss"] for line in lines] == [6.0, 5.0, 4.0]
    assert FIGURES <= set(lines[0])


def test_trackio_gets_every_figure(tmp_path):
    pytest.importorskip("trackio")
    make_run(tmp_path / "run")
    done = log(tmp_path / "run", "--to", "trackio", "--project", "heads", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[log] gave 1 run to ") and len(done.stdout.splitlines()) == 1
    with sqlite3.connect(tmp_path / "out/heads.db") as base:
        rows = base.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    assert [step for step, _ in rows] == [1, 2, 3]
    assert [json.loads(metrics)["loss"] for _, metrics in rows] == [5.0, 4.0, 3.0]
    assert set(json.loads(rows[0][1])) == FIGURES


def test_tensorboard_is_one_of_them(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    make_run(tmp_path / "run")
    assert loggers.main([str(tmp_path / "run"), "--to", "tensorboard"]) == 0
    assert "gave 1 run to" in capsys.readouterr().out
    assert list((tmp_path / "run/tensorboard").glob("events.out.tfevents.*"))


def test_a_missing_program_and_a_wrong_one_are_one_line(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")
    assert loggers.main([str(tmp_path / "run"), "--to", "paper"]) == 2
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert loggers.main([str(tmp_path / "run"), "--to", "wandb"]) == 2
    wrong, missing = capsys.readouterr().err.splitlines()
    assert "invalid choice" in wrong and "pip install 'lmhead[wandb]'" in missing


def test_diverged_losses_and_hostile_names_are_text(tmp_path):
    make_run(tmp_path / "run", losses=(5.0, float("nan")))
    (run,) = loggers.runs.read(str(tmp_path / "run")).runs
    run.log["\x1b[31m"] = {1: 1.0}
    lines = dict(loggers.lines_of(run))
    assert "loss" in lines[1] and "loss" not in lines.get(2, {}) and not any("\x1b" in name for name in lines[1])
