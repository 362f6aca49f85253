"""Commands and the Python interface on the stand-in device, against the CPU."""

import json
import os
import subprocess
import sys

import numpy
import pytest

stand_in = pytest.importorskip("stand_in")
if not stand_in.LIBRARY.is_file():
    pytest.skip("the stand-in device is not built", allow_module_level=True)
from conftest import ROOT  # noqa: E402

LMHEAD = ROOT / ".venv" / "bin" / "lmhead"


def run(*arguments, code=0, device=True):
    done = subprocess.run([LMHEAD, *map(str, arguments)], capture_output=True, text=True,
                          env=stand_in.environment() if device else None, check=False)
    assert done.returncode == code, done.stderr
    return done


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on the CPU and one on the device, of the same configuration."""
    folder = tmp_path_factory.mktemp("devices")
    configuration = {
        "data": {"kind": "spamlang", "batch_size": 4, "sequence_length": 16, "validation_tokens": 64, "spamlang": {"vocab_size": 64}},
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
        "training": {"steps": 20, "threads": 1, "checkpoint_every": 5},
    }
    (folder / "tiny.json").write_text(json.dumps(configuration))
    run("train", folder / "tiny.json", "--run", folder / "cpu")
    run("train", folder / "tiny.json", "--run", folder / "there", "--device", "stand_in")
    return folder


def test_a_run_is_the_same_within_rounding(runs):
    assert numpy.abs(numpy.subtract(losses(runs / "cpu"), losses(runs / "there"))).max() < 1e-3
    assert json.loads((runs / "there" / "config.json").read_text())["training"]["device"] == "stand_in"
    assert json.loads((runs / "there" / "summary.json").read_text())["device"] == "stand_in:0"
    assert "is finished already" in run("train", runs / "there", "--device", "cpu").stdout


def test_a_device_that_is_not_there_is_one_line(runs):
    for verb, *rest in (["train", runs / "tiny.json", "--run", runs / "none"], ["sample", runs / "cpu", "--prompt-ids", "1"]):
        said = run(verb, *rest, "--device", "cuda:7", code=2).stderr
        assert said.count("\n") == 1 and 'must be one that is here (cpu, stand_in) or auto, got "cuda:7"' in said
    assert 'must be one that is here (cpu) or auto, got "stand_in"' in run("train", runs / "tiny.json", "--run", runs / "none",
                                                                         "--device", "stand_in", code=2, device=False).stderr


def test_a_study_runs_on_it(runs):
    study = {"name": "tiny", "base": json.loads((runs / "tiny.json").read_text()),
             "arms": [{"name": "a"}, {"name": "b", "set": {"optimizer.learning_rate": 0.01}}], "seeds": [0, 1]}
    (runs / "study.json").write_text(json.dumps(study))
    for name, *device in (["cpu"], ["there", "--device", "stand_in"]):
        run("study", runs / "study.json", "--out", runs / f"study-{name}", "--jobs", "2", *device)
    rows = [[json.loads(line) for line in (runs / f"study-{name}" / "rows.jsonl").read_text().splitlines()] for name in ("cpu", "there")]
    assert {row["configuration"] for row in rows[0]} == {row["configuration"] for row in rows[1]} and len(rows[1]) == 4


def test_a_study_runs_on_several_at_once(runs):
    study = {"name": "tiny", "base": json.loads((runs / "tiny.json").read_text()), "arms": [{"name": "a"}], "seeds": [0, 1, 2, 3]}
    (runs / "several.json").write_text(json.dumps(study))
    asked = ["study", runs / "several.json", "--out", runs / "study-several"]
    said = run(*asked, "--device", "cpu,stand_in", "--jobs", "3", code=2).stderr
    assert said == "[study] --jobs must be at most the 2 devices of --device, one run on each, got 3\n"
    assert "--device must name devices, each once, got cpu,cpu" in run(*asked, "--device", "cpu,cpu", code=2).stderr
    run(*asked, "--device", "cpu,stand_in")
    assert len((runs / "study-several" / "rows.jsonl").read_text().splitlines()) == 4
    there = [json.loads(file.read_text())["device"] for file in (runs / "study-several").rglob("summary.json")]
    assert len(there) == 4 and set(there) == {"cpu", "stand_in:0"}


def test_sampling_is_the_same(runs):
    asked = ["sample", runs / "cpu", "--prompt-ids", "1,2,3", "--ids", "--max-new-tokens", "12"]
    assert run(*asked, "--device", "stand_in").stdout == run(*asked).stdout


def test_the_python_interface_computes_on_it(runs):
    """In a process of its own: PyTorch's Python keeps the device, which has no random numbers, for as long as it lives."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "python" / "stand_in_checks.py"],
                          capture_output=True, text=True, env={**os.environ, "LMHEAD_RUN": str(runs / "cpu")}, check=False)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
