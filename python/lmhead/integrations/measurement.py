"""What the callbacks of all programs have in common: when to measure, on how much of a batch, and under which names."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmhead.retention import GradientRetention, measure

FIGURES = ("destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "retained_energy", "tokens")


class HeadMeasurement:
    """Figures of ``lmhead.measure`` on part of a batch, every so many steps.

    Parameters, their gradients, every module's mode and the random state are afterwards as they were before, so that training
    goes on with the same bits.

    Args:
        every: steps between measurements.
        max_tokens: of a batch so many rows are measured as have at most this many positions, and at least one row; bounds the
            logits of a measurement.
        prefix: of the names under which figures are logged.
        figures: which of those in docs/glossary.md.
        options: keyword arguments of :class:`lmhead.GradientRetention`.
    """

    def __init__(
        self,
        every: int = 100,
        max_tokens: int = 4096,
        prefix: str = "head/",
        figures: tuple[str, ...] = FIGURES,
        **options: Any,
    ) -> None:
        for name, value in (("every", every), ("max_tokens", max_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"[head callback] {name} must be a positive integer, got {value!r}")
        self.every, self.max_tokens, self.prefix, self.chosen, self.options = every, max_tokens, prefix, figures, options
        self._last_step: int | None = None
        GradientRetention(torch.eye(2), **options)  # options that do not fit are said before training begins

    def is_due(self, step: int) -> bool:
        """Whether to measure now; once a step, however often it is asked."""
        if step == 0 or step % self.every or step == self._last_step:
            return False
        self._last_step = step
        return True

    def of_batch(self, model: Any, batch: Mapping[str, Any]) -> dict[str, float]:
        """Of a causal language model of `transformers`, by name with the prefix; empty where no token of the batch counts."""
        require_whole_head(model)
        part = self._part(batch)
        try:
            with random_state_kept(model):
                return self._named(measure(model, [part], **self.options))
        except RuntimeError as error:
            if "at least one token with a target" in str(error):  # all labels are -100
                return {}
            raise

    def of_features(self, weight: Tensor, hidden: Tensor, targets: Tensor, bias: Tensor | None = None) -> dict[str, float]:
        """Of features [..., D] with targets [...], for models of any kind."""
        retention = GradientRetention(weight, bias, **self.options)
        rows = hidden.detach().reshape(-1, hidden.shape[-1])[: self.max_tokens]
        retention.update(rows, targets.reshape(-1)[: self.max_tokens])
        return self._named(retention.compute())

    def _named(self, figures: Mapping[str, float]) -> dict[str, float]:
        missing = [name for name in self.chosen if name not in figures]
        if missing:
            raise ValueError(f"[head callback] figures must be among {', '.join(sorted(figures))}, got {missing[0]!r}")
        return {self.prefix + name: figures[name] for name in self.chosen}

    def _part(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor):
            raise ValueError("[head callback] a batch must be a mapping with input_ids, a tensor, got " + type(batch).__name__)
        ids = batch["input_ids"]
        rows = max(1, self.max_tokens // max(1, ids.shape[-1]))
        return {
            name: value[:rows] if isinstance(value, Tensor) and value.dim() >= 1 and value.shape[0] == ids.shape[0] else value
            for name, value in batch.items()
        }


def require_whole_head(model: Any) -> None:
    """Raises where the head's matrix is not whole in this process, or not the model's own."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    if weight is None:
        raise ValueError(f"[head callback] the model must have a linear output embedding, got {type(head or model).__name__}")
    if type(weight).__name__ == "DTensor" or weight.dim() != 2:
        raise ValueError("[head callback] the head must be whole in every process, got one that is sharded")


def random_state_kept(model: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within it, nothing that the model draws is missed by training."""
    devices = {parameter.device.index or 0 for parameter in model.parameters() if parameter.device.type == "cuda"}
    return torch.random.fork_rng(sorted(devices))
