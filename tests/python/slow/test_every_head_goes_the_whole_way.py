"""Every head of the list as processes: an arm of a study, trained, measured, sampled from, exported or refused, reported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_train_command import LMHEAD, write_dataset  # noqa: E402

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
MODEL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
DATA = {"path": "data", "sequence_length": 16, "batch_size": 4, "validation_tokens": 64}
TRAINING = {"steps": 4, "threads": 1, "validate_every": 2, "checkpoint_every": 2}


def call(folder, *arguments, code=0):
    done = subprocess.run([LMHEAD, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    return done


def listed():
    if not LMHEAD.exists():
        return []
    return [head["type"] for head in json.loads(call(None, "heads", "--json").stdout)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole way")
    write_dataset(folder / "data")
    return folder


def test_there_are_eighteen_at_least():
    assert len(listed()) >= 18


@pytest.mark.parametrize("name", listed())
def test_a_run_is_measured_sampled_exported_or_refused_and_reported(folder, name):
    configuration = {"data": DATA, "model": MODEL, "head": {"type": name}, "training": TRAINING,
                     "observe": {"diagnostics": {"every": 2, "quality": True, "gradient_retention": True, "local_retention": True}}}
    (folder / f"{name}.json").write_text(json.dumps(configuration))
    call(folder, "train", f"{name}.json", "--run", name)
    log = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    assert len(log) == 4 and log[-1]["validation"]["loss"] > 0
    assert log[-1]["diagnostics"]["local_retention"]["tokens"] == 64

    call(folder, "measure", name, "--tokens", "data/validation.bin", "--max-tokens", 100, "--json", f"{name}-figures.json")
    [figures] = json.loads((folder / f"{name}-figures.json").read_text())["models"]
    own = figures["gradient_retention" if "gradient_retention" in figures else "local_retention"]
    assert 0 < own["retained_energy"] <= 1 and own["destroyed_ratio"] > 0
    assert ("local_retention" in figures) == ("gradient_retention" in figures.get("left_out", {}).get("diagnostics", []))

    printed = call(folder, "sample", name, "--prompt-ids", "1,2,3", "--ids", "--temperature", 0, "--max-new-tokens", 5).stdout
    assert len(printed.strip().split(",")) == 5

    done = subprocess.run([LMHEAD, "export", name, f"{name}-exported"], cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        assert (folder / f"{name}-exported/model.safetensors").exists()
    else:  # one line that names why
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "head.type must be one whose logits are a linear map" in done.stderr or "logits must be linear" in done.stderr


def test_every_head_is_an_arm_of_a_study(folder):
    names = listed()
    study = {
        "name": "every_head",
        "description": "Every head, hardly trained.",
        "base": {"data": DATA, "model": MODEL, "training": {**TRAINING, "checkpoint_every": 0}},
        "arms": [{"name": name, "set": {"head.type": name}} for name in names],
        "seeds": [0, 1],
        "outcome": "validation.loss",
        "comparisons": [{"baseline": "linear", "arms": names[1:]}],
        "margin": 0.02,
        "limits": ["Four steps."],
    }
    (folder / "study.json").write_text(json.dumps(study))
    call(folder, "study", "study.json", "--out", "study", "--jobs", 2, "--discard-runs")
    statistics = json.loads((folder / "study/statistics.json").read_text())
    assert {arm["arm"] for arm in statistics["arms"]} == set(names)
    rows = [json.loads(line) for line in (folder / "study/rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * len(names) and not any(row["diverged"] for row in rows)
    # Whatever else a head trains on, evaluation is of the whole vocabulary: after four steps no one is far from chance. Only adaptive
    # begins elsewhere, with as much probability for a tail as for a word.
    assert all(row["outcome"] < (6 if row["arm"] == "adaptive" else 5) for row in rows)
