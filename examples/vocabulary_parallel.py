#!/usr/bin/env python3
"""A head whose rows lie in several processes, trained without logits: beside `loss_parallel` of PyTorch, and in a loop of FSDP2.

    torchrun --nproc-per-node 2 examples/vocabulary_parallel.py [--vocab-size 32768] [--hidden-size 256] [--tokens 1024]

First both losses on the same features, as under tensor parallelism: the loss, the gradients, the time and what memory a step adds.
Then a model under `fully_shard`, each process with its own tokens; its losses are those of one process that sees all of them.
"""
import argparse
import os
import pathlib
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module

import lmhead


def resident(key):
    """VmRSS or VmHWM of this process, in MiB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"[vocabulary_parallel] /proc/self/status must have {key}, got none")


def measured(step, rounds=3):
    """What `step` returns, seconds of the fastest round, and MiB that a round adds at its peak."""
    step()
    seconds = []
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before = resident("VmRSS")
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds), max(0.0, resident("VmHWM") - before)


def compare_losses(mesh, arguments, say):
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(arguments.tokens, arguments.hidden_size, generator=draw)
    weight = torch.randn(arguments.vocab_size, arguments.hidden_size, generator=draw) * arguments.hidden_size**-0.5
    targets = torch.randint(arguments.vocab_size, (arguments.tokens,), generator=draw)

    head = torch.nn.Linear(arguments.hidden_size, arguments.vocab_size, bias=False)
    head.weight.data.copy_(weight)
    parallelize_module(head, mesh, ColwiseParallel(output_layouts=Shard(-1), use_local_output=False))
    matrix = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_()
    del weight

    def with_logits():
        hidden = features.clone().requires_grad_()
        head.weight.grad = None
        with loss_parallel():
            loss = F.cross_entropy(head(hidden), targets)
            loss.backward()
        return loss.full_tensor() if isinstance(loss, DTensor) else loss, hidden.grad, head.weight.grad.to_local()

    def without_logits():
        hidden = features.clone().requires_grad_()
        matrix.grad = None
        loss = lmhead.vocabulary_parallel_cross_entropy(hidden, matrix, targets)
        loss.backward()
        return loss, hidden.grad, matrix.grad.to_local()

    outcomes = []
    for name, step in (("loss_parallel", with_logits), ("lmhead", without_logits)):
        outcome, seconds, memory = measured(step)
        outcomes.append(outcome)
        say(f"{name:14} loss {outcome[0].item():.6f}   {1e3 * seconds:8.1f} ms a step   {memory:8.1f} MiB more")
    for name, one, other in zip(("loss", "gradient of features", "gradient of rows"), *outcomes):
        say(f"  {name} differ by {(one - other).abs().max().item():.1e}, of {one.abs().max().item():.1e}")
    return outcomes


class Body(torch.nn.Module):
    def __init__(self, vocab_size, hidden_size, blocks=2):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, hidden_size)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.LayerNorm(hidden_size), torch.nn.Linear(hidden_size, 4 * hidden_size), torch.nn.GELU(),
                                torch.nn.Linear(4 * hidden_size, hidden_size)) for _ in range(blocks)
        )  # fmt: skip

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


def train(body, weight, loss_of, tokens, targets, steps):
    optimizer = torch.optim.AdamW([*body.parameters(), weight], lr=3e-3, foreach=False)
    losses = []
    for _ in range(steps):
        loss = loss_of(body(tokens), weight, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def train_under_fsdp(mesh, arguments, say, steps=8):
    vocab_size, hidden_size, size, rank = 500, 32, mesh.size(), mesh.get_rank()
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(vocab_size, (4 * size, 33), generator=draw)
    weight = torch.randn(vocab_size, hidden_size, generator=draw) * 0.02

    torch.manual_seed(2)
    body = Body(vocab_size, hidden_size)
    whole = train(body, weight.clone().requires_grad_(), lmhead.linear_cross_entropy, ids[:, :-1], ids[:, 1:], steps)

    torch.manual_seed(2)
    body = Body(vocab_size, hidden_size)
    for block in body.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(body, mesh=mesh)
    for module in (body, *body.blocks):
        module.set_gradient_divide_factor(1.0)  # the loss is the mean over all processes already: gradients are summed
        module.set_force_sum_reduction_for_comms(True)  # Gloo has no scaled sum
    own = ids[4 * rank : 4 * rank + 4]
    matrix = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_()

    def loss_of(hidden, rows, targets):
        return lmhead.vocabulary_parallel_cross_entropy(hidden, rows, targets, hidden_layout="sharded")

    sharded = train(body, matrix, loss_of, own[:, :-1], own[:, 1:], steps)
    say("under fully_shard " + " ".join(f"{loss:.5f}" for loss in sharded))
    say("in one process    " + " ".join(f"{loss:.5f}" for loss in whole))
    return sharded, whole


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=1024)
    arguments = parser.parse_args(argv)
    if "RANK" not in os.environ:
        parser.error("must be started by torchrun, as above")
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (int(os.environ["WORLD_SIZE"]),))

    def say(text):
        if mesh.get_rank() == 0:
            print(text, flush=True)

    losses = compare_losses(mesh, arguments, say)
    curves = train_under_fsdp(mesh, arguments, say)
    dist.destroy_process_group()
    return losses, curves


if __name__ == "__main__":
    main()
