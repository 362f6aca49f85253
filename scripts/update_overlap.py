#!/usr/bin/env python3
"""What whitening the backbone's gradient changes in the updates of AdamW and of Muon, at the weights of trained runs: docs/results/update_overlap.md.

For each checkpoint of a run the gradients of the same batches are formed twice: from what plain backpropagation sends into the backbone, g, and from
g (C + 0.01 mean eigenvalue I)^-1/2, scaled to the length of g, with C the batch's g^T g / N. From both series, at fixed weights, come the updates of
AdamW (betas 0.9 and 0.95) and of Muon (momentum 0.95, Nesterov, five steps of Newton and Schulz). Cosines are of whole matrices, averaged over layers.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

import numpy
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[1]
KINDS = {"writes": ("self_attn.o_proj", "mlp.down_proj"),
         "reads": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")}


def whitened(gradient, damping=0.01):
    rows = gradient.reshape(-1, gradient.shape[-1]).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values = values.clamp_min(0)
    changed = rows @ (vectors * (values + damping * values.mean()) ** -0.5) @ vectors.T
    return (changed * rows.norm() / changed.norm()).to(gradient.dtype).view_as(gradient)


def orthogonalised(matrix):
    """The library's own polynomial (lmhead/train/muon.cc)."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def series(model, batches, rule):
    """The gradients of every matrix of the blocks, batch by batch."""
    for batch in batches:
        model.zero_grad(set_to_none=True)
        features = model.model(batch[:, :-1]).last_hidden_state
        if rule:
            features.register_hook(rule)
        logits = model.lm_head(features)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        yield {name: parameter.grad.clone() for name, parameter in model.named_parameters() if name.startswith("model.layers.") and parameter.dim() == 2}


def updates(gradients):
    """{optimiser: {matrix: update}} after this series at fixed weights."""
    first, second, momentum = {}, {}, {}
    for step in gradients:
        for name, gradient in step.items():
            first[name] = 0.9 * first.get(name, 0) + 0.1 * gradient
            second[name] = 0.95 * second.get(name, 0) + 0.05 * gradient.square()
            momentum[name] = 0.95 * momentum.get(name, 0) + 0.05 * gradient
            last = step
    return {"gradient": momentum, "AdamW": {name: first[name] / (second[name].sqrt() + 1e-8) for name in first},
            "Muon": {name: orthogonalised(0.95 * momentum[name] + 0.05 * last[name]) for name in momentum}}


def mean_cosine(names, some, others):
    return statistics.mean(torch.nn.functional.cosine_similarity(some[name].flatten(), others[name].flatten(), dim=0).item() for name in names)


def overlaps(folder, data, batches, seed):
    """[row]: a checkpoint's mean cosines, for matrices that write into the residual stream and for those that read from it."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([ROOT / ".venv/bin/lmhead", "export", folder, out], check=True, stdout=subprocess.DEVNULL)
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager")
    tokens = numpy.memmap(data / "train.bin", dtype="<u2", mode="r")
    starts = numpy.random.default_rng(seed).integers(0, len(tokens) - 129, (batches, 8))
    drawn = [torch.stack([torch.from_numpy(tokens[start:start + 129].astype(numpy.int64)) for start in row]) for row in starts]
    plain, changed = updates(series(model, drawn, None)), updates(series(model, drawn, whitened))
    rows = []
    for kind, endings in KINDS.items():
        names = [name for name in plain["Muon"] if name.removesuffix(".weight").endswith(endings)]
        rows.append({"checkpoint": str(folder), "matrices": kind, "count": len(names),
                     **{optimiser: mean_cosine(names, plain[optimiser], changed[optimiser]) for optimiser in plain},
                     "gradient to Muon": mean_cosine(names, plain["gradient"], plain["Muon"]),
                     "whitened to Muon": mean_cosine(names, changed["gradient"], plain["Muon"])})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", type=pathlib.Path, help="folders of checkpoints, or runs")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the prepared data of the runs")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for folder in arguments.checkpoints:
        for row in overlaps(folder, arguments.data, arguments.batches, arguments.seed):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
