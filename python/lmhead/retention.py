"""Gradient retention for any PyTorch model: the C++ of `lmhead measure`, called from a user's own loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lmhead import ops as _ops  # noqa: F401  (loads the library that has the class)

__all__ = ["GradientRetention", "measure"]


class GradientRetention:
    """How much of the logit gradient a linear head lets through, accumulated over batches.

    ``logits = softcap(logit_scale * (hidden @ weight.T + bias))``; the figures and their formulae are in
    ``docs/glossary.md``. The weight is looked at once: make a new object where it has changed. Memory: D x D float64, a
    block of logits, and one copy of the weight where it is ill-conditioned or narrower than float32. Arithmetic: float32
    products (float64 for a float64 weight), float64 Gram matrix and sums. On the CPU.

    Args:
        weight: [V, D] of any floating type.
        bias: [V] or None.
        logit_scale: factor of the logits.
        logit_softcap: c of ``c * tanh(z / c)``; 0 for none.
        center_weight: measure the column space of the weight less its mean row.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        logit_scale: float = 1.0,
        logit_softcap: float = 0.0,
        center_weight: bool = False,
    ) -> None:
        self._native = torch.classes.lmhead.GradientRetention(
            weight.detach().cpu(),
            None if bias is None else bias.detach().cpu(),
            float(logit_scale),
            float(logit_softcap),
            center_weight,
        )

    def update(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Adds features [..., D] with targets [...] (-100: left out).

        Returns the retained share of each counted token's squared gradient, [n] float64.
        """
        hidden = hidden.detach().cpu()
        return self._native.update(hidden.reshape(-1, hidden.shape[-1]), targets.detach().cpu().reshape(-1))

    def compute(self) -> dict[str, float]:
        """Every figure over all tokens so far, by its name in the glossary. Raises where there was no token."""
        figures = dict(self._native.compute())
        return figures | {key: int(figures[key]) for key in ("head_rank", "tokens")}

    def reset(self) -> None:
        """Forgets every token; the weight stays."""
        self._native.reset()


def measure(model: torch.nn.Module, batches: Iterable[Tensor | Mapping[str, Any]], **options: Any) -> dict[str, float]:
    """Measures the gradient retention of a causal language model of `transformers`.

    The output embedding, a logit soft-cap or scale, and the features that enter the head are found through the model's
    configuration and a hook; on the first batch the logits that follow from them are compared with the model's own, and a
    model whose head is something else is refused rather than measured wrongly.

    Args:
        model: a causal language model with ``get_output_embeddings()``.
        batches: token ids [B, T], or mappings with ``input_ids`` and perhaps ``attention_mask`` and ``labels`` (-100:
            left out). Targets are the labels, or else the ids, one position on; nothing crosses a row.
        options: keyword arguments of :class:`GradientRetention`, such as ``center_weight``.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None or head.weight.dim() != 2:
        raise ValueError("[measure] the model must have a linear output embedding, got " + type(head).__name__)
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    bias = getattr(head, "bias", None)
    retention = GradientRetention(head.weight, bias, logit_scale=scale, logit_softcap=softcap, **options)

    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach()))
    was_training = model.training
    model.eval()
    checked = False
    try:
        for batch in batches:
            inputs = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
            labels = inputs.pop("labels", inputs["input_ids"]).clone()
            mask = inputs.get("attention_mask")
            if mask is not None:
                labels[mask == 0] = -100
            features.clear()
            with torch.no_grad():
                logits = model(**inputs).logits
            if len(features) != 1 or features[0].shape[:-1] != labels.shape:
                raise ValueError("[measure] the head must be applied once to every position, got another use of it")
            if not checked:
                _check_head(features[0], logits, head.weight, bias, scale, softcap)
                checked = True
            retention.update(features[0][:, :-1], labels[:, 1:].to(torch.int64))
    finally:
        hook.remove()
        model.train(was_training)
    return retention.compute()


def _check_head(
    features: Tensor, logits: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float
) -> None:
    """Raises unless the last position's logits are those of the linear map that will be measured."""
    with torch.no_grad():
        expected = torch.nn.functional.linear(features[:, -1], weight, bias).float() * scale
    if softcap > 0:
        expected = softcap * torch.tanh(expected / softcap)
    got = logits[:, -1].float()
    # A few roundings of the model's own type.
    tolerance = 8 * torch.finfo(logits.dtype).eps * float(got.abs().max().clamp_min(1))
    if not torch.allclose(got, expected, rtol=0, atol=max(tolerance, 1e-5)):
        raise ValueError(
            "[measure] the model's logits must be softcap(scale * (features @ weight.T + bias)), got others: its head is "
            "not one that can be measured as a linear map"
        )
