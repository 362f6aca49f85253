"""The normaliser of a linear map's logits, its entropy and single logits, without ever holding the logits.

From these, losses follow that need only some words of a vocabulary: ``log p(y) = target_logits(...) - linear_logsumexp(...)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmhead.ops import _of_tokens, linear_cross_entropy

__all__ = [
    "linear_entropy",
    "linear_logsumexp",
    "linear_multi_target_cross_entropy",
    "linear_token_log_probabilities",
    "target_logits",
]


def _call(
    operation: Any,
    input: Tensor,
    linear_weight: Tensor,
    *more: Tensor,
    linear_bias: Tensor | None = None,
    temperature: Tensor | float | None = None,
    sigmoid_cap: tuple[float, float, float] | None = None,
    **options: Any,
) -> Any:
    """Calls a native operation, whose tokens are in one dimension."""
    return operation(
        input.reshape(input.shape[:-1].numel(), input.shape[-1]),
        linear_weight,
        *more,
        bias=linear_bias,
        temperature=_of_tokens(temperature, "temperature", input),
        sigmoid_cap=sigmoid_cap or [],
        **options,
    )


def linear_logsumexp(
    input: Tensor,
    linear_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    temperature: Tensor | float | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float = 0.0,
    sigmoid_cap: tuple[float, float, float] | None = None,
    sigsoftmax: bool = False,
) -> Tensor:
    r""":math:`\log \sum_u e^{z_u}` over the rows u of ``linear_weight``, any number of rows of any matrix.

    Logits z are those of :func:`lmhead.linear_cross_entropy` with the same options, which is this less the target's logit.
    One matrix product forwards, three backwards. Memory: 24 bytes a token, and 512 x 1,024 logits a thread.

    Args:
        input: features, ``[..., D]``.
        linear_weight: ``[U, D]``, of the type of ``input``.
        linear_bias: ``[U]``.
        temperature: ``[...]`` or one for all.
        logit_scale, logit_softcap, sigmoid_cap, sigsoftmax: as in :func:`lmhead.linear_cross_entropy`.

    Returns:
        ``[...]``, float32, or float64 for float64 input. Gradients flow to ``input``, ``linear_weight``, ``linear_bias`` and
        ``temperature``; derivatives of other kinds are those of the plain composition, at its cost.
    """
    result: Tensor = _call(
        torch.ops.lmhead.linear_logsumexp,
        input,
        linear_weight,
        linear_bias=linear_bias,
        temperature=temperature,
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
        sigmoid_cap=sigmoid_cap,
        sigsoftmax=sigsoftmax,
    )
    return result.reshape(input.shape[:-1])


def linear_entropy(
    input: Tensor,
    linear_weight: Tensor,
    **options: Any,
) -> Tensor:
    """The entropy, in nats, of the distribution that :func:`linear_logsumexp` normalises, ``[...]``; same options and costs.

    Differentiable in ``input``, ``linear_weight`` and ``linear_bias``; ``temperature`` must not require a gradient.
    """
    result: Tensor = _call(torch.ops.lmhead.linear_logsumexp_and_entropy, input, linear_weight, **options)[1]
    return result.reshape(input.shape[:-1])


def target_logits(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    **options: Any,
) -> Tensor:
    """The logits of ``target``, int64 ``[...]`` or ``[..., K]`` for features ``[..., D]``, as :func:`linear_logsumexp` sees them.

    Same options. Cost: D multiplications a target, and as much memory. Every target must be a row of ``linear_weight``.
    """
    if target.shape[: input.dim() - 1] != input.shape[:-1] or target.dim() > input.dim():
        raise ValueError(
            f"[target_logits] target must have the shape {tuple(input.shape[:-1])}, or one dimension more, got {tuple(target.shape)}"
        )
    flat = target.reshape(-1, *target.shape[input.dim() - 1 :])
    result: Tensor = _call(torch.ops.lmhead.target_logits, input, linear_weight, flat, **options)
    return result.reshape(target.shape)


def linear_token_log_probabilities(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, ignore_index: int = -100, **options: Any
) -> Tensor:
    """log p of each target, ``[...]``; 0 where the target is ``ignore_index``. Options: those of :func:`lmhead.linear_cross_entropy`
    that shape logits. What preference and policy losses are made of."""
    return -linear_cross_entropy(input, linear_weight, target, ignore_index=ignore_index, reduction="none", **options)


def linear_multi_target_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    target_weight: Tensor | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Tensor:
    r"""Cross-entropy with several targets a token: :math:`\sum_k w_k (\mathrm{lse}(z) - z_{y_k})`.

    Args:
        input: features, ``[..., D]``.
        linear_weight: ``[V, D]``.
        target: int64 ``[..., K]``; negative ids count nothing.
        target_weight: w, ``[..., K]``; None: 1 / (the number of the token's targets that count).
        reduction: ``'none'``, ``'mean'`` over the tokens with a target that counts, or ``'sum'``.
        options: those of :func:`linear_logsumexp`.

    Returns:
        The loss: 0-dim, or ``[...]`` for reduction ``'none'``. Gradients flow also to ``target_weight`` where it requires one.
    """
    if target.shape[:-1] != input.shape[:-1]:
        raise ValueError(
            f"[linear_multi_target_cross_entropy] target must be {tuple(input.shape[:-1])} and K, got {tuple(target.shape)}"
        )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(
            f"[linear_multi_target_cross_entropy] reduction must be 'none', 'mean' or 'sum', got {reduction!r}"
        )
    counts = target >= 0
    logits = target_logits(input, linear_weight, target.clamp_min(0), **options)
    if target_weight is None:
        weight = counts.to(logits.dtype) / counts.sum(-1, keepdim=True).clamp_min(1)
    else:
        weight = target_weight.masked_fill(~counts, 0)
    loss = weight.sum(-1) * linear_logsumexp(input, linear_weight, **options) - (weight * logits).sum(-1)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counts.any(-1).sum()
