"""The head of a causal language model of transformers, where it is one linear map of the features that enter it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """``logits = softcap * tanh((scale * (hidden @ weight.T + bias)) / softcap)``; softcap 0 stands for none."""

    module: torch.nn.Module
    weight: Tensor  # [V, D]
    bias: Tensor | None
    scale: float
    softcap: float
    known_ids: int | None  # rows of the embedding

    @contextlib.contextmanager
    def features(self) -> Iterator[list[Tensor]]:
        """What enters the head meanwhile, one tensor a use."""
        seen: list[Tensor] = []
        with self.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach())):
            yield seen

    def check(self, features: Tensor, logits: Tensor) -> None:
        """Raises ValueError unless `logits` [n, V] are those of this map for `features` [n, D]."""
        with torch.no_grad():
            expected = torch.nn.functional.linear(features, self.weight, self.bias).float() * self.scale
        if self.softcap > 0:
            expected = self.softcap * torch.tanh(expected / self.softcap)
        got = logits.float()
        # A few roundings of the model's own type.
        tolerance = 8 * torch.finfo(logits.dtype).eps * float(got.abs().max().clamp_min(1))
        if got.shape != expected.shape or not torch.allclose(got, expected, rtol=0, atol=max(tolerance, 1e-5)):
            raise ValueError(
                "[measure] the model's logits must be softcap(scale * (features @ weight.T + bias)), got others: its head is "
                "not one that can be measured as a linear map"
            )


def linear_head(model: Any) -> LinearHead:
    """The head that the model's configuration describes; raises ValueError where there is none."""
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None or head.weight.dim() != 2:
        raise ValueError("[measure] the model must have a linear output embedding, got " + type(head).__name__)
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return LinearHead(
        module=head,
        weight=head.weight,
        bias=getattr(head, "bias", None),
        scale=float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        known_ids=getattr(embedding, "num_embeddings", None),
    )
