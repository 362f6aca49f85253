"""lmhead study --ray on a cluster of two nodes on this machine: the same rows, a node lost, a stop, no address."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import wait_for  # noqa: E402
from test_study_ray import LMHEAD, STUDY, rows, study  # noqa: E402

cluster_utils = pytest.importorskip("ray.cluster_utils")
LONG = STUDY | {"base": STUDY["base"] | {"training": {"steps": 2000, "checkpoint_every": 50}}, "seeds": [1]}


@pytest.fixture
def cluster():
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def start(folder, address):
    (folder / "long.json").write_text(json.dumps(LONG))
    return subprocess.Popen([LMHEAD, "study", "long.json", "--ray", address], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def steps(folder):
    """How far every run has come, of those that have begun to log."""
    logs = folder.glob("runs/tiny/runs/*/seed-1/log.jsonl")
    return [len(log.read_bytes().splitlines()) for log in logs]


def logs(folder):
    found = {}
    for file in sorted(folder.glob("runs/tiny/runs/*/seed-1/log.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.parent.parent.name] = [{key: value for key, value in line.items() if "second" not in key} for line in lines]
    return found


def test_its_rows_are_those_of_this_machine(cluster, tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    study(tmp_path / "here", "--jobs", 2)
    said = study(tmp_path / "there", "--ray", cluster.address)
    assert "Traceback" not in said and "raylet" not in said
    assert rows(tmp_path / "there/runs/tiny/rows.jsonl") == rows(tmp_path / "here/runs/tiny/rows.jsonl")
    assert not [path for path in (tmp_path / "there/runs/tiny").iterdir() if path.name.startswith(".ray-")]


def test_runs_of_a_lost_node_go_on_elsewhere(cluster, tmp_path):
    process = start(tmp_path, cluster.address)
    wait_for(lambda: len(steps(tmp_path)) == 2 and min(steps(tmp_path)) > 100, seconds=90)
    cluster.remove_node(cluster.second, allow_graceful=False)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    lost = logs(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/long.json").write_text(json.dumps(LONG))
    subprocess.run([LMHEAD, "study", "long.json", "--jobs", "2"], cwd=tmp_path / "here", check=True, capture_output=True, timeout=400)
    assert lost == logs(tmp_path / "here") and len(lost) == 2


def test_a_stop_saves_and_goes_on(cluster, tmp_path):
    process = start(tmp_path, cluster.address)
    wait_for(lambda: len(steps(tmp_path)) == 2, seconds=90)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "stopped and saved" in said, said
    before = steps(tmp_path)
    assert len(list(tmp_path.glob("runs/tiny/runs/*/seed-1/checkpoints/step-*"))) >= 2 and max(before) < 2000
    process = start(tmp_path, cluster.address)
    assert process.wait(timeout=400) == 0
    assert steps(tmp_path) == [2000, 2000]


def test_an_address_without_a_cluster_is_one_line(tmp_path):
    said = study(tmp_path, "--ray", "127.0.0.1:1", code=2)
    assert said.count("\n") == 1 and "--ray must be the address of a Ray cluster, got 127.0.0.1:1" in said
