"""Runs of a study carried out elsewhere: what a node does with one, shards, and addresses that lead nowhere."""

import json
import os
import subprocess

import pytest
from conftest import ROOT

from lmhead.study import ray_workers

LMHEAD = ROOT / ".venv/bin/lmhead"
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="lmhead is not installed")
STUDY = {
    "name": "tiny", "description": "Two rates.",
    "base": {"data": {"kind": "spamlang", "batch_size": 4, "sequence_length": 16, "validation_tokens": 64, "spamlang": {"vocab_size": 64}},
             "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}, "training": {"steps": 20}},
    "arms": [{"name": "a"}, {"name": "b", "set": {"optimizer.learning_rate": 0.01}}], "seeds": [1, 2, 3],
}
CLOCKS = ("wall_seconds", "measure_seconds", "tokens_per_second")


def study(folder, *arguments, code=0, **environment):
    (folder / "tiny.json").write_text(json.dumps(STUDY))
    done = subprocess.run([LMHEAD, "study", "tiny.json", *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120,
                          env=os.environ | environment)
    assert done.returncode == code, done.stderr
    return done.stderr


def rows(file):
    """By arm and seed, less what clocks say."""
    found = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        row = {key: value for key, value in row.items() if key not in CLOCKS} | {"curve": row["curve"] | {"wall_seconds": None}}
        assert (row["arm"], row["seed"]) not in found
        found[row["arm"], row["seed"]] = row
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study carried out here."""
    folder = tmp_path_factory.mktemp("whole")
    study(folder, "--jobs", 2)
    return folder / "runs/tiny"


def run_of(whole, folder, mark, **changes):
    configuration = json.loads((whole / "runs/b/seed-2/config.json").read_text())
    for key, value in changes.items():
        configuration[key] |= value
    program, version = ray_workers.find_lmhead(str(LMHEAD.parent))
    assert program and version.startswith("lmhead ")
    return ray_workers.Run(configuration, str(folder), str(mark), os.getcwd(), 1, str(LMHEAD.parent), version)


def log_of(text):
    return [{key: value for key, value in json.loads(line).items() if "second" not in key} for line in text.splitlines()]


def test_a_node_that_shares_the_folder_trains_there(whole, tmp_path):
    (tmp_path / "mark").touch()
    run = run_of(whole, tmp_path / "seed-2", tmp_path / "mark")
    assert run.carry_out() == {"end": "finished"} and run.step() == 20
    expected, got = (folder / "log.jsonl" for folder in (whole / "runs/b/seed-2", tmp_path / "seed-2"))
    assert log_of(got.read_text()) == log_of(expected.read_text())


def test_a_node_of_its_own_sends_the_files(whole, tmp_path):
    answer = run_of(whole, tmp_path / "runs/seed-2", tmp_path / "mark").carry_out()
    assert answer["end"] == "finished" and not (tmp_path / "runs").exists()
    assert "summary.json" in answer["files"] and not [name for name in answer["files"] if name.startswith("checkpoints")]
    (tmp_path / "runs/seed-2").mkdir(parents=True)
    (tmp_path / "runs/seed-2/log.jsonl").write_text("of an earlier try")
    ray_workers.write_files(tmp_path / "runs/seed-2", answer["files"])
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"seed-2"}
    assert log_of((tmp_path / "runs/seed-2/log.jsonl").read_text()) == log_of((whole / "runs/b/seed-2/log.jsonl").read_text())


def test_what_goes_wrong_on_a_node_is_told(whole, tmp_path):
    (tmp_path / "mark").touch()
    diverged = run_of(whole, tmp_path / "a", tmp_path / "mark", optimizer={"learning_rate": 1e30}).carry_out()
    assert diverged["end"] == "diverged" and diverged["error"].startswith("[train]")
    failed = run_of(whole, tmp_path / "b", tmp_path / "mark", data={"batch_size": -1}).carry_out()
    assert failed["end"] == "failed" and "batch_size" in failed["error"]
    other = run_of(whole, tmp_path / "c", tmp_path / "mark")
    other.version = "lmhead 0.0"
    assert "every node must have lmhead 0.0, got lmhead" in other.carry_out()["error"]
    stopped = run_of(whole, tmp_path / "d", tmp_path / "mark")
    stopped.stop()
    assert stopped.carry_out()["end"] in ("stopped", "finished")


def test_shards_with_common_rows_are_the_study(whole, tmp_path):
    common = tmp_path / "rows"
    common.mkdir()
    said = [study(tmp_path, "--shard", f"{index}/3", "--jobs", 2, "--rows", common) for index in (1, 2, 3)]
    assert [folder.name for folder in sorted((tmp_path / "runs").iterdir())] == [f"tiny-shard-{index}-of-3" for index in (1, 2, 3)]
    assert "shard 1/3 has done its part" in said[0] and "start again with the rows of all" in said[0] and "belong" not in said[2]
    assert rows(common / "tiny.jsonl") == rows(whole / "rows.jsonl")
    assert "i/n with 1 <= i <= n, got 4/3" in study(tmp_path, "--shard", "4/3", code=2)


def test_no_cluster_is_one_line(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('none here')\n")
    said = study(tmp_path, "--ray", "127.0.0.1:1", code=2, PYTHONPATH=str(tmp_path))
    assert said.count("\n") == 1 and "ray must be installed (pip install 'lmhead[ray]')" in said
