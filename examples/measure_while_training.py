#!/usr/bin/env python3
"""Measures, inside a plain PyTorch training loop, how much of the logit gradient the head lets through.

    python examples/measure_while_training.py

A small byte model learns this very file. Every tenth step the features that the loss has just seen are measured too: the
destroyed ratio, beside that of a random subspace of the same dimension, without which it says nothing.
"""
import pathlib

import torch
from torch import nn

import lmhead


class ByteModel(nn.Module):
    """Predicts a byte from the bytes before it: an embedding, a GRU, and a head that it leaves to the loss."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(self.embedding(ids))[0])


def train(steps: int = 100, every: int = 10) -> list[dict[str, float]]:
    """Trains, prints a line a measurement, and returns the figures (names: docs/glossary.md) with `step` and `loss`."""
    torch.manual_seed(0)
    text = torch.tensor(list(pathlib.Path(__file__).read_bytes()))
    model, head = ByteModel(), lmhead.LinearCrossEntropyLoss(32, 256)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)
    measured = []
    for step in range(1, steps + 1):
        starts = torch.randint(len(text) - 65, (16, 1))
        windows = text[starts + torch.arange(65)]
        hidden, targets = model(windows[:, :-1]), windows[:, 1:]
        loss = head(hidden, targets)
        if step % every == 0:
            retention = lmhead.GradientRetention(head.linear.weight)  # looks at the weight as it is now
            retention.update(hidden, targets)
            figures = {"step": step, "loss": loss.item()} | retention.compute()
            measured.append(figures)
            print("step {step:4d}   loss {loss:.3f}   destroyed {destroyed_ratio:.4f}, at random {null_destroyed_ratio:.4f}".format(**figures))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return measured


if __name__ == "__main__":
    train()
