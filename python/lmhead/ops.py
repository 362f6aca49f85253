"""The fast kernels of lmhead for PyTorch programs.

Importing this module loads ``liblmhead.so``, which registers ``torch.ops.lmhead``. The library is looked for beside
the package, then where the environment variable ``LMHEAD_LIBRARY`` points, then in the repository's ``build/release``.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["LinearCrossEntropyLoss", "filtered_linear_cross_entropy", "library_path", "linear_cross_entropy"]


def library_path() -> Path:
    """The library that is loaded; raises ``ImportError`` naming every place where it was looked for."""
    package = Path(__file__).resolve().parent
    places = [package / "liblmhead.so", package / "lib" / "liblmhead.so"]
    if named := os.environ.get("LMHEAD_LIBRARY"):
        places.append(Path(named))
    places.append(package.parent.parent / "build" / "release" / "lib" / "liblmhead.so")
    for place in places:
        if place.is_file():
            return place
    raise ImportError("[lmhead.ops] liblmhead.so must be built, looked in " + ", ".join(map(str, places)))


torch.ops.load_library(str(library_path()))


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    logit_softcap: float = 0.0,
    mode: str = "auto",
) -> Tensor:
    r"""Cross-entropy of the logits of a linear map, without ever holding the logits.

    With :math:`z = \mathrm{softcap}(s (W h + b))`, :math:`\mathrm{softcap}(z) = c \tanh(z / c)` for
    ``logit_softcap`` c > 0, class weights :math:`w` and label smoothing :math:`\epsilon`, a token's loss is

    .. math:: a_t \Big( (1 - \epsilon) w_y (\mathrm{lse}(z) - z_y)
              + \tfrac{\epsilon}{V} \sum_c w_c (\mathrm{lse}(z) - z_c) + \lambda\, \mathrm{lse}(z)^2 \Big)

    Arguments that :func:`torch.nn.functional.linear_cross_entropy` has too mean the same here.

    Args:
        input: features, ``[..., D]``; float32, float64 or bfloat16 on the CPU are tiled, other types and devices take
            chunks of rows through ATen (not yet run on a GPU). Under autocast, input, linear_weight and so the products
            are of the autocast type.
        linear_weight: W, ``[V, D]``, of the type of ``input``.
        target: class indices, int64, ``[...]``.
        linear_bias: b, ``[V]``.
        weight: class weights w, ``[V]``; the mean divides by the class weights of the counted targets.
        token_weight: a, ``[...]``; multiplies losses, not the divisor of the mean.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        ignore_index: tokens with this target count nothing and cost nothing; ``None`` means -100.
        label_smoothing: :math:`\epsilon` in [0, 1].
        z_loss: :math:`\lambda`.
        logit_scale: s, for example base width / width under muP.
        logit_softcap: c; 0 means none.
        mode: ``'fast'`` forms the gradients in the forward pass (three matrix products, a block of logits of at most
            128 MiB), ``'small'`` recomputes logits in the backward pass (four products, one tile of logits a thread),
            ``'auto'`` chooses by shape; ``reduction='none'`` always recomputes.

    Returns:
        The loss: 0-dim, or of the shape of ``target`` for reduction ``'none'``; float32, or float64 for float64 input.
        Gradients flow to ``input``, ``linear_weight`` and ``linear_bias``; differentiating twice raises an error.
    """
    loss = torch.ops.lmhead.linear_cross_entropy(
        input.reshape(-1, input.shape[-1]),
        linear_weight,
        target.reshape(-1),
        bias=linear_bias,
        class_weight=weight,
        token_weight=None if token_weight is None else token_weight.reshape(-1),
        reduction=reduction,
        ignore_index=-100 if ignore_index is None else ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
        mode=mode,
    )
    return loss.reshape(target.shape) if reduction == "none" else loss


def filtered_linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    threshold: float,
    *,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """``linear_cross_entropy`` that skips both backward products of tiles where no abs(p - y) exceeds ``threshold``.

    The loss is exact. The second result, float64 ``[3]``, holds the tiles seen, the tiles skipped, and the Frobenius norm
    of the skipped part E of the gradient of the products ``input @ linear_weight.T``: the gradients err by ``E @ linear_weight`` and
    ``E.T @ input``. On the CPU only; ``reduction`` is ``'mean'`` or ``'sum'``.
    """
    loss, report = torch.ops.lmhead.filtered_linear_cross_entropy(
        input.reshape(-1, input.shape[-1]),
        linear_weight,
        target.reshape(-1),
        threshold,
        bias=linear_bias,
        reduction=reduction,
        ignore_index=-100 if ignore_index is None else ignore_index,
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
    )
    return loss, report


class LinearCrossEntropyLoss(torch.nn.Module):
    """A linear layer and its cross-entropy in one; see :func:`linear_cross_entropy`.

    Holds ``weight`` ``[num_classes, in_features]`` and, on request, ``bias`` ``[num_classes]``, initialised as in
    :class:`torch.nn.Linear`; ``class_weight`` is a buffer.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        weight: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: object,
    ) -> None:
        super().__init__()
        linear = torch.nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("class_weight", weight)
        self.options = options

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return linear_cross_entropy(
            input, self.weight, target, linear_bias=self.bias, weight=self.class_weight, **self.options
        )
