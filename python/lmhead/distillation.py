"""The divergence of one linear head's distribution from another's, without holding the logits of either."""

from __future__ import annotations

import torch
from torch import Tensor

from lmhead.ops import _of_tokens

__all__ = ["linear_distillation"]


def linear_distillation(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    logit_scale: float = 1.0,
    logit_softcap: float = 0.0,
    sigmoid_cap: tuple[float, float, float] | None = None,
    sigsoftmax: bool = False,
    teacher_logit_scale: float = 1.0,
    teacher_logit_softcap: float = 0.0,
) -> Tensor:
    r"""The divergence of the student's :math:`p = \mathrm{softmax}(z)` from the teacher's q, in nats, logits formed some rows at a time.

    For a mean or a sum the gradients are formed with the loss: three matrix products and the teacher's one.
    Memory: a dozen blocks of 4 Mi logits (or one row each) beside the gradients.

    Args:
        input: the student's features, ``[..., D]``.
        linear_weight: ``[V, D]``, of the type of ``input``.
        teacher_input: the teacher's features, ``[..., E]``; no gradient reaches them.
        teacher_weight: ``[V, E]``, of the type of ``teacher_input``.
        linear_bias, teacher_bias: ``[V]``.
        divergence: ``'forward_kl'``: KL(q || p) (Hinton et al. 2015, arXiv 1503.02531); ``'reverse_kl'``: KL(p || q);
            ``'jsd'``: beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p (Agarwal et al. 2024, arXiv 2306.13649).
        beta: of ``'jsd'``, between 0 and 1.
        temperature: divides the logits of both, after every map; the loss is not multiplied by its square.
        token_weight: ``[...]``, multiplies each token's loss, not the divisor of the mean; 0 leaves a token out.
        reduction: ``'mean'`` over all tokens, ``'sum'`` or ``'none'``.
        logit_scale, logit_softcap, sigmoid_cap, sigsoftmax: the student's, as in :func:`lmhead.linear_cross_entropy`.
        teacher_logit_scale, teacher_logit_softcap: the teacher's.

    Returns:
        0-dim, or ``[...]`` for reduction ``'none'``; float32, or float64 for float64 features. Gradients: ``input``,
        ``linear_weight``, ``linear_bias``; derivatives of other kinds are those of the plain composition, at its cost.
    """
    if teacher_input.shape[:-1] != input.shape[:-1]:
        raise ValueError(
            f"[linear_distillation] teacher_input must be {tuple(input.shape[:-1])} and its width, got {tuple(teacher_input.shape)}"
        )
    rows = input.shape[:-1].numel()
    result: Tensor = torch.ops.lmhead.linear_distillation(
        input.reshape(rows, input.shape[-1]),
        linear_weight,
        teacher_input.reshape(rows, teacher_input.shape[-1]),
        teacher_weight,
        bias=linear_bias,
        teacher_bias=teacher_bias,
        token_weight=_of_tokens(token_weight, "token_weight", input),
        divergence=divergence,
        beta=beta,
        temperature=temperature,
        reduction=reduction,
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
        sigmoid_cap=sigmoid_cap or [],
        sigsoftmax=sigsoftmax,
        teacher_logit_scale=teacher_logit_scale,
        teacher_logit_softcap=teacher_logit_softcap,
    )
    return result.reshape(input.shape[:-1]) if reduction == "none" else result
