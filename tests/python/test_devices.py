"""Commands and the Python interface on the stand-in device, against the CPU."""

import json
import os
import shutil
import subprocess
import sys

import numpy
import pytest
import torch

stand_in = pytest.importorskip("stand_in")
if not stand_in.LIBRARY.is_file():
    pytest.skip("the stand-in device is not built", allow_module_level=True)
from conftest import ROOT  # noqa: E402

LMHEAD = ROOT / ".venv" / "bin" / "lmhead"


def run(*arguments, code=0, device=True, **variables):
    done = subprocess.run([LMHEAD, *map(str, arguments)], capture_output=True, text=True,
                          env=stand_in.environment(**variables) if device else None, check=False)
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
        assert said.count("\n") == 1 and 'must be one that is here (cpu, stand_in, stand_in:1) or auto, got "cuda:7"' in said
    assert 'must be one that is here (cpu) or auto, got "stand_in"' in run("train", runs / "tiny.json", "--run", runs / "none",
                                                                         "--device", "stand_in", code=2, device=False).stderr


def write_study(file, runs, seeds, **base):
    configuration = json.loads((runs / "tiny.json").read_text())
    configuration["training"] |= base
    file.write_text(json.dumps({"name": "tiny", "base": configuration, "arms": [{"name": "a"}], "seeds": seeds}))


def devices_of(folder):
    return [json.loads(file.read_text())["device"] for file in folder.rglob("summary.json")]


def test_a_study_runs_on_it(runs):
    write_study(runs / "study.json", runs, [0, 1])
    for name, *device in (["cpu"], ["there", "--device", "stand_in"]):
        run("study", runs / "study.json", "--out", runs / f"study-{name}", "--jobs", "2", *device)
    rows = [[json.loads(line) for line in (runs / f"study-{name}" / "rows.jsonl").read_text().splitlines()] for name in ("cpu", "there")]
    assert {row["configuration"] for row in rows[0]} == {row["configuration"] for row in rows[1]} and len(rows[1]) == 2
    assert sorted(devices_of(runs / "study-there")) == ["stand_in:0", "stand_in:1"]  # one run a device


def test_a_study_runs_on_several_at_once(runs):
    write_study(runs / "several.json", runs, [0, 1, 2, 3])
    asked = ["study", runs / "several.json", "--out", runs / "study-several"]
    said = run(*asked, "--device", "cpu,stand_in:1", "--jobs", "3", code=2).stderr
    assert said == "[study] --jobs must be at most 2, one run on each device, got 3\n"
    said = run(*asked, "--device", "stand_in:0", "--jobs", "2", code=2).stderr
    assert said == "[study] --jobs must be at most 1, one run on each device, got 2\n"
    assert "[study] devices must be named once each, got cpu,cpu" in run(*asked, "--device", "cpu,cpu", code=2).stderr
    assert "[study] device must be one that is here" in run(*asked, "--device", "cpu,cuda:9", code=2).stderr
    run(*asked, "--device", "cpu,stand_in:1")
    assert len((runs / "study-several" / "rows.jsonl").read_text().splitlines()) == 4
    assert len(devices_of(runs / "study-several")) == 4 and set(devices_of(runs / "study-several")) == {"cpu", "stand_in:1"}


def test_a_study_that_names_a_device_itself_has_one_run_on_each(runs):
    write_study(runs / "own.json", runs, [0, 1], device="stand_in")
    run("study", runs / "own.json", "--out", runs / "study-own", "--jobs", "2")
    assert sorted(devices_of(runs / "study-own")) == ["stand_in:0", "stand_in:1"]


def test_a_run_of_a_study_that_fails_on_its_device_is_one_line(runs):
    write_study(runs / "failing.json", runs, [0, 1])
    done = subprocess.run([LMHEAD, "study", runs / "failing.json", "--out", runs / "study-failing", "--device", "stand_in", "--jobs", "2"],
                          capture_output=True, text=True, env=stand_in.environment(LMHEAD_STAND_IN_WITHOUT="aten::_fused_adamw_"), check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "failed: " in line]
    assert len(lines) == 2 and all("[device] the device must have the operator aten::_fused_adamw_" in line for line in lines)


def test_a_device_without_memory_or_an_operator_is_one_line_and_the_checkpoint_stays(runs):
    """A run as a kill leaves it behind its last checkpoint but one; then what fails; then it goes on as if nothing had been."""
    whole, folder = runs / "whole", runs / "failing run"
    run("train", runs / "tiny.json", "--run", whole, "--device", "stand_in:1")
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    newest = sorted((folder / "checkpoints").glob("step-*"))
    assert len(newest) > 1
    shutil.rmtree(newest[-1])

    def checkpoints():
        return {file: file.read_bytes() for file in (folder / "checkpoints").rglob("*") if file.is_file()}

    saved = checkpoints()
    for variable, value, said in (
        ("LMHEAD_STAND_IN_MEMORY", "40000", "[device] the device's memory must hold what was asked for, got an allocation that failed; smaller batches"),
        ("LMHEAD_STAND_IN_WITHOUT", "aten::_fused_adamw_", "[device] the device must have the operator aten::_fused_adamw_, got a PyTorch that has it not there; device cpu works"),
    ):
        done = subprocess.run([LMHEAD, "train", folder, "--device", "stand_in:1"], capture_output=True, text=True,
                              env=stand_in.environment(**{variable: value}), check=False)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("going on after step")]
        assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith(said), done.stderr
        assert checkpoints() == saved
    run("train", folder, "--device", "stand_in:1")
    assert losses(folder) == losses(whole)


def test_sampling_is_the_same(runs):
    asked = ["sample", runs / "cpu", "--prompt-ids", "1,2,3", "--ids", "--max-new-tokens", "12"]
    assert run(*asked, "--device", "stand_in").stdout == run(*asked).stdout


def figures_near(got, want, where="figures"):
    """Of one JSON document and another: numbers within rounding, of which differences of near-equal ones are made; the rest alike."""
    assert type(got) is type(want), where
    if isinstance(want, dict):
        assert got.keys() == want.keys(), where
        for key in want:
            figures_near(got[key], want[key], f"{where}.{key}")
    elif isinstance(want, list):
        assert len(got) == len(want), where
        for place, pair in enumerate(zip(got, want, strict=True)):
            figures_near(*pair, f"{where}[{place}]")
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=2e-3, abs=1e-5), where
    else:
        assert got == want, where


def everywhere(folder, *arguments):
    """What the command writes with --json on the CPU and on the device."""
    found = []
    for device in ("cpu", "stand_in:1"):
        run(*arguments, "--device", device, "--json", folder / f"{device}.json")
        found.append(json.loads((folder / f"{device}.json").read_text()))
    return found


def test_measuring_is_the_same(runs, tmp_path):
    ids = tmp_path / "ids.bin"
    numpy.random.default_rng(0).integers(0, 64, 600).astype("uint16").tofile(ids)
    tokens = ["--tokens", ids, "--token-type", "uint16", "--sequence-length", "32"]
    here, there = everywhere(tmp_path, "measure", runs / "cpu", *tokens)
    assert here["models"][0]["quality"]["tokens"] > 500
    figures_near(there, here)
    (tmp_path / "hf").mkdir()
    run("export", runs / "cpu", tmp_path / "hf")  # whose blocks are read one by one
    figures_near(*reversed(everywhere(tmp_path, "measure", tmp_path / "hf", *tokens)))
    lacking = run("measure", runs / "cpu", *tokens, "--device", "stand_in", code=2, LMHEAD_STAND_IN_WITHOUT="aten::index_select").stderr
    assert lacking.startswith("[device] the device must have the operator aten::index_select") and lacking.count("\n") == 1


def test_evaluating_is_the_same(tmp_path):
    pytest.importorskip("lm_eval", reason="needs the extra evaluate")
    from evaluate_fixtures import make_data, make_model
    from lmhead.evaluate.command import main

    model, data, written = make_model(tmp_path / "model"), make_data(tmp_path / "data"), [tmp_path / "there.json", tmp_path / "here.json"]
    asked = ["evaluate", str(model), "--tasks", "arc_easy,lambada_openai", "--limit", "2", "--data", str(data), "--offline", "--cache", "none", "--json"]
    run(*asked, written[0], "--device", "stand_in:1")
    assert main([*asked[1:], str(written[1])]) == 0
    figures_near(*(json.loads(file.read_text()) for file in written))


def test_what_a_device_lacks_is_said_by_evaluate_in_a_line():
    pytest.importorskip("lm_eval", reason="needs the extra evaluate")
    from lmhead.command import RequestError
    from lmhead.evaluate.harness import said_in_a_line

    def fail(error):
        raise error

    for error, said in (
        (NotImplementedError("Could not run 'aten::mm' with arguments from the 'CUDA' backend.\nand more"), "the device must have the operator aten::mm, got a PyTorch that has it not there"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the device's memory must hold what was asked for, got an allocation that failed"),
        (NotImplementedError("no words of a dispatcher\nand more"), "no words of a dispatcher"),
        (RuntimeError("[evaluate] ids must be below 7, got 9"), "ids must be below 7, got 9"),
    ):
        with pytest.raises(RequestError) as caught:
            said_in_a_line(fail, error)
        assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_the_python_interface_computes_on_it(runs):
    """In a process of its own: PyTorch's Python keeps the device, which has no random numbers, for as long as it lives."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "python" / "stand_in_checks.py"],
                          capture_output=True, text=True, env={**os.environ, "LMHEAD_RUN": str(runs / "cpu")}, check=False)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr
