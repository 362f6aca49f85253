"""The fast kernels of lmhead for PyTorch programs.

Importing this module loads ``liblmhead.so``, which registers ``torch.ops.lmhead``. The library is looked for in the
package (an editable installation has two folders: the sources' and the one of what was built), then where the environment
variable ``LMHEAD_LIBRARY`` points, then in the repository's ``build/release``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import lmhead

__all__ = [
    "LinearCrossEntropyLoss",
    "TokenStatistics",
    "empty_cache",
    "filtered_linear_cross_entropy",
    "library_path",
    "linear_cross_entropy",
    "linear_cross_entropy_with_statistics",
]


def library_path() -> Path:
    """The library that is loaded; raises ``ImportError`` naming every place where it was looked for."""
    package = Path(__file__).resolve().parent
    places = [folder / "liblmhead.so" for folder in dict.fromkeys([package, *map(Path, lmhead.__path__)])]
    if named := os.environ.get("LMHEAD_LIBRARY"):
        places.append(Path(named))
    places.append(package.parent.parent / "build" / "release" / "lib" / "liblmhead.so")
    for place in places:
        if place.is_file():
            return place
    raise ImportError("[lmhead.ops] liblmhead.so must be built, looked in " + ", ".join(map(str, places)))


torch.ops.load_library(str(library_path()))


def empty_cache() -> None:
    """Gives the kernels' workspaces that wait for the next call back to the system, as ``torch.cuda.empty_cache`` does.

    Of the CPU only, at most 2 GiB or an eighth of the machine's memory. They are marked as free while they wait, so that the
    system can take them anyway; what a process is seen to hold counts them until it does.
    """
    torch.ops.lmhead._release_reused_memory()



_SHAPE = "[linear_cross_entropy] {} must have the shape {} that goes with input, got {}"


def _check_target(input: Tensor, linear_weight: Tensor, target: Tensor) -> None:
    """Refuses what flattening would hide: a batch of another shape that happens to have as many tokens."""
    shape = input.shape[:-1]
    if target.is_floating_point() and target.dim() == input.dim():
        shape = shape + linear_weight.shape[:1]  # class probabilities
    if input.dim() == 0 or target.shape != shape:
        raise ValueError(_SHAPE.format("target", tuple(shape), tuple(target.shape)))


def _of_tokens(values: Tensor | float | None, name: str, input: Tensor) -> Tensor | None:
    """``[N]`` of one number a token or one for all."""
    if values is None:
        return None
    if not isinstance(values, Tensor):
        dtype = torch.promote_types(input.dtype, torch.float32)
        return torch.full(input.shape[:-1], float(values), dtype=dtype, device=input.device).reshape(-1)
    if values.shape != input.shape[:-1]:
        raise ValueError(_SHAPE.format(name, tuple(input.shape[:-1]), tuple(values.shape)))
    return values.reshape(-1)


def _call(
    operation: Any,
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    temperature: Tensor | float | None = None,
    ignore_index: int | None = None,
    sigmoid_cap: tuple[float, float, float] | None = None,
    **options: Any,
) -> Any:
    """Calls a native operation, whose tokens are in one dimension and whose names are its own."""
    _check_target(input, linear_weight, target)
    return operation(
        input.reshape(input.shape[:-1].numel(), input.shape[-1]),
        linear_weight,
        target.reshape(-1, linear_weight.shape[0]) if target.dim() == input.dim() else target.reshape(-1),
        bias=linear_bias,
        class_weight=weight,
        token_weight=_of_tokens(token_weight, "token_weight", input),
        temperature=_of_tokens(temperature, "temperature", input),
        sigmoid_cap=sigmoid_cap or [],
        ignore_index=-100 if ignore_index is None else ignore_index,
        **options,
    )


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
    temperature: Tensor | float | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float = 0.0,
    sigmoid_cap: tuple[float, float, float] | None = None,
    sigsoftmax: bool = False,
    mode: str = "auto",
) -> Tensor:
    r"""Cross-entropy of the logits of a linear map, without ever holding the logits.

    With :math:`z = f(s (W h + b)) / T`, where f is the identity or one of the maps below, class weights :math:`w` and label
    smoothing :math:`\epsilon`, a token's loss is

    .. math:: a_t \Big( (1 - \epsilon) w_y (\mathrm{lse}(z) - z_y)
              + \tfrac{\epsilon}{V} \sum_c w_c (\mathrm{lse}(z) - z_c) + \lambda\, \mathrm{lse}(z)^2 \Big)

    The sum is divided by the class weights of the counted targets for reduction ``'mean'``. Arguments that
    :func:`torch.nn.functional.linear_cross_entropy` has too mean the same here, class probabilities as targets among them;
    its targets of several dimensions for one feature vector are refused (see ``lmhead.linear_multi_target_cross_entropy``).

    Memory beyond the gradients, with R = 512 rows: R V logits but at most 128 MiB in mode ``'fast'``, R
    x 1,024 logits a thread in mode ``'small'``, and R D numbers a thread in both. Tokens whose target is ignored cost
    nothing. The same thread count gives the same bits.

    Args:
        input: features, ``[..., D]``; float32, float64 or bfloat16 on the CPU are tiled, other types and devices take
            chunks of rows through ATen (not yet run on a GPU). Under autocast, input, linear_weight and so the products
            are of the autocast type.
        linear_weight: W, ``[V, D]``, of the type of ``input``.
        target: class indices, int64, ``[...]``; or class probabilities q, floating ``[..., V]``: then
            :math:`\sum_c q_c w_c (\mathrm{lse}(z) - z_c)` stands for what the target costs, and the mean divides by the tokens.
        linear_bias: b, ``[V]``.
        weight: class weights w, ``[V]``; the mean divides by the class weights of the counted targets.
        token_weight: a, ``[...]``; multiplies losses, not the divisor of the mean.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        ignore_index: tokens with this target count nothing and cost nothing; ``None`` means -100.
        label_smoothing: :math:`\epsilon` in [0, 1].
        z_loss: :math:`\lambda`.
        logit_scale: s, for example base width / width under muP.
        temperature: T, ``[...]`` or one for all; divides logits after every map.
        logit_softcap: c of :math:`f(z) = c \tanh(z / c)`; 0 means none.
        sigmoid_cap: A, b, c of :math:`f(z) = A \sigma((z + b) / c)`.
        sigsoftmax: :math:`f(z) = 2 z - \mathrm{softplus}(z)`, whose softmax is proportional to :math:`e^z \sigma(z)`.
        mode: ``'fast'`` forms the gradients in the forward pass (three matrix products, a block of logits of at most
            128 MiB), ``'small'`` recomputes logits in the backward pass (four products, one tile of logits a thread),
            ``'auto'`` chooses by shape; ``reduction='none'`` and float16 always recompute.

    Returns:
        The loss: 0-dim, or of the shape of ``target`` for reduction ``'none'``; float32, or float64 for float64 input.
        Gradients flow to ``input``, ``linear_weight`` and ``linear_bias``. Forward mode, the transforms of ``torch.func`` and
        second derivatives are right too, at the cost and memory of the plain composition.
    """
    loss: Tensor = _call(
        torch.ops.lmhead.linear_cross_entropy,
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        token_weight=token_weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        temperature=temperature,
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
        sigmoid_cap=sigmoid_cap,
        sigsoftmax=sigsoftmax,
        mode=mode,
    )
    return loss.reshape(input.shape[:-1]) if reduction == "none" else loss


class TokenStatistics(NamedTuple):
    """What one pass knows of every token, of plain cross-entropy whatever the options add to the loss; zeros where the target is
    ignored. Without gradients; float32, or float64 for float64 input."""

    log_probability: Tensor
    """log p of the target, ``[...]``."""
    logsumexp: Tensor
    """lse(z), ``[...]``."""
    entropy: Tensor
    """Of p, in nats, ``[...]``."""
    correct: Tensor
    """Whether the target is the first index of the largest logit, bool ``[...]``."""
    logit_gradient_square: Tensor
    r""":math:`\|p - y\|^2` at the output of the product ``input @ linear_weight.T``, ``[...]``."""
    hidden_gradient: Tensor
    r""":math:`g = W^\top (p - y)`, before any division by the number of tokens, ``[..., D]``."""


def linear_cross_entropy_with_statistics(
    input: Tensor, linear_weight: Tensor, target: Tensor, **options: Any
) -> tuple[Tensor, TokenStatistics]:
    """``linear_cross_entropy`` with the same options, and what its pass knows of every token.

    The loss and its gradients are those of ``linear_cross_entropy``, bit for bit. The statistics cost no further matrix product
    in mode ``'fast'`` where label smoothing, z-loss and weights are off and ``input`` requires a gradient; one product where the
    mode is ``'small'`` or nothing requires a gradient; two where an option adds to the loss. Memory: N (D + 5) numbers.
    """
    loss, scores, hidden_gradient = _call(
        torch.ops.lmhead.linear_cross_entropy_with_statistics, input, linear_weight, target, **options
    )
    log_probability, logsumexp, entropy, correct, square = (row.reshape(target.shape) for row in scores.unbind())
    statistics = TokenStatistics(
        log_probability.to(loss.dtype),
        logsumexp.to(loss.dtype),
        entropy.to(loss.dtype),
        correct.bool(),
        square.to(loss.dtype),
        hidden_gradient.reshape(input.shape),
    )
    return loss.reshape(target.shape) if options.get("reduction") == "none" else loss, statistics


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
    """``linear_cross_entropy`` that leaves out both backward products of tiles where no abs(p - y) but the targets' exceeds ``threshold``.

    The targets' entries are added all the same, and for the rest of such a tile stands the rank-one matrix of its row and column
    sums. The loss is exact. The second result, float64 ``[3]``, holds the tiles seen, the tiles left out, and the Frobenius norm
    of what is missing of them, E, in the gradient of the products ``input @ linear_weight.T``: the gradients err by ``E @ linear_weight``
    and ``E.T @ input``. It bites where the vocabulary is ordered by frequency. On the CPU only; ``reduction`` is ``'mean'`` or ``'sum'``.
    """
    _check_target(input, linear_weight, target)
    loss, report = torch.ops.lmhead.filtered_linear_cross_entropy(
        input.reshape(input.shape[:-1].numel(), input.shape[-1]),
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
    """A linear layer and its cross-entropy in one, with the parameters of :class:`torch.nn.LinearCrossEntropyLoss`.

    ``linear`` holds the head, ``weight`` (a buffer) the class weights, so that state dicts go from either to the other. The
    formula, and what every further option means, are those of :func:`linear_cross_entropy`.

    Args:
        in_features: D.
        num_classes: V.
        bias: adds a learnt bias, ``[V]``.
        device, dtype: of the parameters.
        reduction, ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap, mode: as in
            :func:`linear_cross_entropy`.
        weight: class weights, ``[V]``.

    Shape:
        ``input`` ``[..., D]``, ``target`` and ``token_weight`` ``[...]``; the loss is 0-dim, or ``[...]`` for reduction ``'none'``.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        logit_scale: float = 1.0,
        logit_softcap: float = 0.0,
        mode: str = "auto",
    ) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.weight: Tensor | None
        self.register_buffer("weight", weight)
        self.reduction, self.mode = reduction, mode
        self.ignore_index, self.label_smoothing, self.z_loss = ignore_index, label_smoothing, z_loss
        self.logit_scale, self.logit_softcap = logit_scale, logit_softcap

    def forward(self, input: Tensor, target: Tensor, token_weight: Tensor | None = None) -> Tensor:
        return linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            weight=self.weight,
            token_weight=token_weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            logit_scale=self.logit_scale,
            logit_softcap=self.logit_softcap,
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        """The options, for ``print``; the layer speaks for itself."""
        return f"reduction={self.reduction!r}, label_smoothing={self.label_smoothing}, mode={self.mode!r}"
