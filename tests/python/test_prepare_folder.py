"""lmhead prepare: what is there is kept, made again or replaced, and no failure leaves anything behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lmhead.prepare import dataset
from prepare_fixtures import (
    PYTHON,
    SLEEP_A_MINUTE,
    all_documents,
    left_over,
    refuse,
    run,
    sidecar_of,
    texts,
    write_folder,
)

from lmhead import files


def test_a_second_call_does_nothing_and_a_changed_input_or_result_is_made_again(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    arguments = [tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3"]
    run(capsys, *arguments)
    stamp = (tmp_path / "out" / "train.bin").stat().st_mtime_ns
    (tmp_path / "out" / "checked.json").write_text("{}")  # as training leaves it
    code, out, err = run(capsys, *arguments)
    assert code == 0 and "nothing to do" in out and err == ""
    assert (tmp_path / "out" / "train.bin").stat().st_mtime_ns == stamp
    before = (tmp_path / "out" / "train.bin").read_bytes()
    (tmp_path / "out" / "train.bin").write_bytes(before[:-2] + b"\0\0")
    assert "wrote" in run(capsys, *arguments)[1]
    assert (tmp_path / "out" / "train.bin").read_bytes() == before
    (folder / "new.txt").write_text("new\n")
    assert "wrote" in run(capsys, *arguments)[1]
    assert "new\n" in all_documents(tmp_path / "out")
    assert left_over(tmp_path) == []


def test_another_request_needs_replace_and_foreign_files_are_left_alone(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    arguments = [tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3"]
    run(capsys, *arguments)
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    assert "or --replace be given" in (line := refuse(capsys, *arguments, "--seed", "3")) and "another seed" in line
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before
    assert run(capsys, *arguments, "--seed", "3", "--replace")[0] == 0
    assert sidecar_of(tmp_path / "out")["source"]["seed"] == 3
    (tmp_path / "out" / "notes.md").write_text("mine")
    assert "with 'notes.md'" in refuse(capsys, *arguments, "--replace")
    assert "OUT must be absent, empty or a dataset" in refuse(capsys, folder, folder, "--bytes", "--replace")
    assert "OUT must be a folder" in refuse(capsys, folder / "0000.txt", folder, "--bytes")
    assert (tmp_path / "out" / "notes.md").read_text() == "mine" and len(os.listdir(folder)) == 40


@pytest.mark.parametrize("sidecar", ["{", "[]", '{"format": "lmhead-dataset"}',
                                     '{"format": "lmhead-dataset", "source": [], "splits": 3}'])
def test_a_broken_sidecar_is_no_reason_to_crash(tmp_path, capsys, sidecar):
    folder = write_folder(tmp_path / "in", texts(40))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text(sidecar)
    refuse(capsys, tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3")
    assert (tmp_path / "out" / "dataset.json").read_text() == sidecar


def test_a_failure_to_write_is_one_line_and_leaves_the_old_dataset(tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path / "in", texts(40))
    arguments = [tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3"]
    run(capsys, *arguments)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset.os, "fsync", full)
    assert "No space left on device" in refuse(capsys, *arguments, "--seed", "5", "--replace")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")} == before
    assert left_over(tmp_path) == []


def test_an_interruption_between_the_two_renames_puts_the_old_dataset_back(tmp_path, monkeypatch):
    fresh, out, scratch = (tmp_path / name for name in ("fresh", "out", "scratch"))
    for folder in (fresh, out, scratch):
        folder.mkdir()
        (folder / folder.name).touch()
    rename = Path.rename

    def interrupted(path, target):
        if path == fresh:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.replace_folder(fresh, out, scratch)
    assert os.listdir(out) == ["out"]
    monkeypatch.undo()
    files.replace_folder(fresh, out, scratch)
    assert os.listdir(out) == ["fresh"] and os.listdir(scratch / "old") == ["out"]


def test_a_stop_by_signal_leaves_nothing(tmp_path):
    folder = write_folder(tmp_path / "in", texts(20))
    script = ("import sys, time; from lmhead import __main__, process; from lmhead.prepare import dataset as d\n"
              f"def slow(self, document):\n    print('writing', flush=True); {SLEEP_A_MINUTE}\n"
              "d.SplitWriter.add = slow\nsys.exit(__main__.main(['prepare', *sys.argv[1:]]))")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out"), str(folder), "--bytes"],
                               env={**os.environ, "PYTHONPATH": str(PYTHON)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.endswith("[prepare] stopped\n")
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []
