"""Commands and the Python interface on the stand-in device, against the CPU."""

import json
import subprocess

import numpy
import pytest

torch = pytest.importorskip("torch")
stand_in = pytest.importorskip("stand_in")
if not stand_in.LIBRARY.is_file():
    pytest.skip("the stand-in device is not built", allow_module_level=True)
from conftest import ROOT  # noqa: E402

import lmhead  # noqa: E402

LMHEAD = ROOT / ".venv" / "bin" / "lmhead"
DEVICE = stand_in.load()


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


def test_sampling_is_the_same(runs):
    asked = ["sample", runs / "cpu", "--prompt-ids", "1,2,3", "--ids", "--max-new-tokens", "12"]
    assert run(*asked, "--device", "stand_in").stdout == run(*asked).stdout


def test_retention_and_the_scorer_compute_where_the_weight_is(runs):
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(50, 12), torch.randn(97, 12), torch.randint(97, (50,))
    here, there = lmhead.GradientRetention(weight), lmhead.GradientRetention(weight.to(DEVICE))
    shares = here.update(hidden, targets), there.update(hidden.to(DEVICE), targets)  # targets go to the weight
    assert shares[1].device == DEVICE and torch.allclose(shares[1].cpu(), shares[0], atol=1e-6)
    assert there.compute() == pytest.approx(here.compute(), rel=1e-5)
    request = ([1, 2, 3], [4, 5])
    scores = [lmhead.Scorer(runs / "cpu", device=device).score([request])[0] for device in ("cpu", "stand_in")]
    assert scores[1].log_probability == pytest.approx(scores[0].log_probability, abs=1e-4)


def test_the_loss_takes_tensors_where_they_are():
    torch.manual_seed(1)
    hidden, weight, targets = torch.randn(2, 15, 12), torch.randn(97, 12), torch.randint(97, (2, 15))
    results = []
    for device in (torch.device("cpu"), DEVICE):
        leaves = [tensor.to(device).detach().requires_grad_() for tensor in (hidden, weight)]
        loss = lmhead.linear_cross_entropy(*leaves, targets.to(device), label_smoothing=0.1, z_loss=1e-3)
        loss.backward()
        results.append([loss.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)])
    for got, want in zip(results[1], results[0], strict=True):
        assert torch.allclose(got, want, atol=1e-5)


def test_a_model_of_transformers_is_measured_on_it():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(2)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.randint(61, (3, 12))
    here = lmhead.measure(model, [ids])
    there = lmhead.measure(model.to(DEVICE), [ids])
    assert there == pytest.approx(here, rel=1e-4)
