"""Runs of several processes of which some are killed at random moments, under torchrun: they end in the bits of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_parallel_training import environment, log_of, parameters_of, tiny, without_clocks  # noqa: E402
from test_train_command import LMHEAD, write_dataset  # noqa: E402

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
TRIALS = int(os.environ.get("LMHEAD_LOST_TRIALS", "30"))
SEED = int(os.environ.get("LMHEAD_KILL_SEED", "0"))
STEPS = 120


def start(folder, run):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "20", "--monitor-interval", "0.1",
               "-m", "lmhead", "train", "config.json", "--run-folder", run]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, env=environment(0, 1, 0), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # fmt: skip


def children_of(process):
    """By rank, of those that are there."""
    found = {}
    try:
        with open(f"/proc/{process}/task/{process}/children") as file:
            for child in map(int, file.read().split()):
                with open(f"/proc/{child}/environ", "rb") as variables:
                    ranks = [one for one in variables.read().split(b"\0") if one.startswith(b"RANK=")]
                if ranks:
                    found[int(ranks[0].split(b"=")[1])] = child
    except OSError:
        pass
    return found


def steps_done(run):
    return (run / "log.jsonl").read_bytes().count(b"\n") if (run / "log.jsonl").exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    write_dataset(folder / "data")
    changes = {"optimizer.type": "muon", "parallel": {"optimizer": "sharded", "vocabulary": "on"}}
    (folder / "config.json").write_text(json.dumps(tiny(folder, changes, steps=STEPS, checkpoint_every=3, validate_every=10)))
    process = start(folder, "undisturbed")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return folder


@pytest.mark.parametrize("trial", range(SEED, SEED + TRIALS))
def test_a_run_that_loses_processes_ends_in_the_same_bits(undisturbed, trial):
    draw = random.Random(trial)
    run, whole_machine = undisturbed / f"trial-{trial}", draw.random() < 0.3
    process = start(undisturbed, run.name)
    for _ in range(draw.randint(1, 3)):
        at = steps_done(run) + draw.randrange(STEPS // 3)  # lines that are dropped again count too
        deadline = time.monotonic() + 120
        while steps_done(run) < min(at, STEPS - 1) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        ranks = children_of(process.pid)
        if process.poll() is not None or not ranks:
            break
        if whole_machine:  # torchrun and all that it started
            for one in (process.pid, *ranks.values()):
                os.kill(one, signal.SIGKILL)
            process.communicate()
            process = start(undisturbed, run.name)
        else:
            try:
                os.kill(draw.choice(list(ranks.values())), signal.SIGKILL)
            except ProcessLookupError:
                pass
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert parameters_of(run) == parameters_of(undisturbed / "undisturbed")
    assert without_clocks(log_of(run)) == without_clocks(log_of(undisturbed / "undisturbed"))
    assert {one.name for one in run.iterdir()} == {one.name for one in (undisturbed / "undisturbed").iterdir()}
