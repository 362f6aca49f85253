"""What test_devices.py runs in a process of its own: the Python interface on the stand-in device. LMHEAD_RUN names a run."""

import os
import subprocess
import sys

import pytest
import stand_in
import torch

import lmhead

DEVICE = stand_in.load()


def test_retention_and_the_scorer_compute_where_the_weight_is():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(50, 12), torch.randn(97, 12), torch.randint(97, (50,))
    here, there = lmhead.GradientRetention(weight), lmhead.GradientRetention(weight.to(DEVICE))
    shares = here.update(hidden, targets), there.update(hidden.to(DEVICE), targets)  # targets go to the weight
    assert shares[1].device == DEVICE and torch.allclose(shares[1].cpu(), shares[0], atol=1e-6)
    assert there.compute() == pytest.approx(here.compute(), rel=1e-5)
    request = ([1, 2, 3], [4, 5])
    scores = [lmhead.Scorer(os.environ["LMHEAD_RUN"], device=device).score([request])[0] for device in ("cpu", "stand_in:1")]
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


def test_chunks_of_logits_follow_the_whole_memory_of_the_device():
    assert torch.ops.lmhead._fused_chunk_bytes(DEVICE) == 2**28  # of 8 GiB
    assert torch.ops.lmhead._fused_chunk_bytes(torch.device("cpu")) == 2**28
    other = subprocess.run([sys.executable, "-c", "import stand_in, torch, lmhead.ops; print(torch.ops.lmhead._fused_chunk_bytes(stand_in.load()))"],
                           env={**os.environ, "LMHEAD_STAND_IN_MEMORY": str(80 * 2**30)}, cwd=os.path.dirname(__file__), capture_output=True, text=True)
    assert other.stdout == f"{80 * 2**30 // 32}\n", other.stderr


def test_a_model_of_transformers_is_measured_on_it():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(2)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.randint(61, (3, 12))
    here = lmhead.measure(model, [ids])
    there = lmhead.measure(model.to(DEVICE), [ids])
    assert there == pytest.approx(here, rel=1e-4)
