"""Cross-entropy of a head whose rows lie in several processes, without holding logits anywhere.

Rank r of a group holds the rows of W, of the bias and of the class weights that follow those of rank r - 1; shards need not be
equally long. Of every token 5 numbers a process travel forwards, and one gradient of the features backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from lmhead.ops import TokenStatistics, _of_tokens

__all__ = ["vocabulary_parallel_cross_entropy", "vocabulary_parallel_cross_entropy_with_statistics"]

_WHO = "[vocabulary_parallel_cross_entropy]"
_LAYOUTS = ("replicated", "sharded")
# Older releases of PyTorch have the other names only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Group:
    """A process group, or this process alone where there is none."""

    def __init__(self, group: dist.ProcessGroup | None):
        self.group = group
        self.is_there = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if self.is_there else 1
        self.rank = dist.get_rank(group) if self.is_there else 0
        if self.rank < 0:
            raise ValueError(f"{_WHO} group must hold this process, got one that does not")

    def gather(self, tensor: Tensor) -> Tensor:
        """``[P, ...]``: every process's, which must be of one shape."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        gathered = tensor.new_empty((self.size, *tensor.shape))
        _all_gather(gathered.flatten(0, 1) if tensor.dim() else gathered, tensor.contiguous(), group=self.group)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def sum_of_parts(self, tensor: Tensor) -> Tensor:
        """Of ``[P, ...]`` the part of this process, summed over processes."""
        if self.size == 1:
            return tensor[0]
        part = torch.empty_like(tensor[0])
        _reduce_scatter(part, tensor.contiguous().flatten(0, 1), group=self.group)
        return part


@dataclass
class _Problem:
    """What all processes have agreed on, and this one's part of it. Rows are tokens: N here, M in all of them."""

    group: _Group
    is_sharded: bool
    logits: dict[str, Any]  # what shapes them, in the words of the native operations
    label_smoothing: float
    z_loss: float
    first_row: int = 0
    vocab_size: int = 0
    weight_sum: float = 0.0  # of the class weights of the whole vocabulary
    sizes: list[int] = field(default_factory=list)  # tokens of every process, where features are sharded
    kept: Tensor | None = None  # the rows that count, of the M; None: all

    def whole(self, own: Tensor) -> Tensor:
        """Of every token ``[M, ...]`` from what this process has, ``[N, ...]``; only the rows that count."""
        if self.is_sharded and self.group.size > 1:
            padded = own.new_zeros((max(self.sizes), *own.shape[1:]))
            padded[: own.shape[0]] = own
            parts = self.group.gather(padded)
            own = torch.cat([part[:size] for part, size in zip(parts, self.sizes)])
        return own if self.kept is None else own[self.kept]

    def own(self, whole: Tensor) -> Tensor:
        """The other way, for what is the same in all processes."""
        whole = self._spread(whole)
        if not self.is_sharded:
            return whole
        begin = sum(self.sizes[: self.group.rank])
        return whole[begin : begin + self.sizes[self.group.rank]]

    def summed(self, whole: Tensor) -> Tensor:
        """The same for what must still be summed over processes."""
        whole = self._spread(whole)
        if not self.is_sharded or self.group.size == 1:
            return self.group.sum(whole)
        padded = whole.new_zeros((self.group.size, max(self.sizes), *whole.shape[1:]))
        for part, of_process in zip(padded, whole.split(self.sizes)):
            part[: of_process.shape[0]] = of_process
        return self.group.sum_of_parts(padded)[: self.sizes[self.group.rank]]

    def _spread(self, kept_rows: Tensor) -> Tensor:
        if self.kept is None:
            return kept_rows
        whole = kept_rows.new_zeros((self.kept.shape[0], *kept_rows.shape[1:]))
        whole[self.kept] = kept_rows
        return whole


@dataclass
class _Rows:
    """What is known of the M rows that count, once all processes have said what they know; float64."""

    hidden: Tensor  # [M, D]
    ids: Tensor  # [M] rows of this shard, or -1
    sums: Tensor  # [M, 6] of this shard
    temperature: Tensor | None
    logsumexp: Tensor
    target_logit: Tensor
    target_weight: Tensor
    weighted: Tensor  # sum of class weight times logit over the vocabulary
    entropy: Tensor
    correct: Tensor


def _rows_of(
    problem: _Problem, hidden: Tensor, weight: Tensor, bias: Tensor | None, class_weight: Tensor | None, target: Tensor,
    temperature: Tensor | None, with_scores: bool,
) -> _Rows:
    whole = problem.whole(hidden)
    ids = problem.whole(target) - problem.first_row
    ids = torch.where((ids >= 0) & (ids < weight.shape[0]), ids, -1)
    heat = None if temperature is None else problem.whole(temperature)
    sums = torch.ops.lmhead._vocabulary_shard_sums(
        whole, weight, ids, bias=bias, temperature=heat, class_weight=class_weight,
        with_weighted=problem.label_smoothing != 0, with_scores=with_scores, **problem.logits,
    )  # fmt: skip
    is_here = ids >= 0
    of_target = is_here.double() if class_weight is None else torch.where(is_here, class_weight.double()[ids.clamp_min(0)], 0.0)
    # One exchange: what every process knows of a token.
    everyone = problem.group.gather(torch.cat([sums, of_target.unsqueeze(1), is_here.double().unsqueeze(1)], 1))
    largest, logsumexps, of_words, weighted, entropies, corrects, weights, has_target = everyone.unbind(2)
    logsumexp = torch.logsumexp(logsumexps, 0)
    share = (logsumexps - logsumexp).exp()
    # The target is first among the largest where no earlier shard has as large a logit and no later one a larger.
    rank = torch.arange(problem.group.size, device=hidden.device).unsqueeze(1)
    home = has_target.argmax(0)
    in_front = torch.where(rank < home, largest, -torch.inf).amax(0)
    behind = torch.where(rank > home, largest, -torch.inf).amax(0)
    own_largest = largest.gather(0, home.unsqueeze(0)).squeeze(0)
    return _Rows(
        hidden=whole,
        ids=ids,
        sums=sums,
        temperature=heat,
        logsumexp=logsumexp,
        target_logit=of_words.sum(0),
        target_weight=weights.sum(0),
        weighted=weighted.sum(0),
        entropy=logsumexp - (share * (logsumexps - entropies)).sum(0),
        correct=corrects.sum(0).bool() & (in_front < own_largest) & (behind <= own_largest),
    )


def _gradients(
    problem: _Problem, rows: _Rows, weight: Tensor, bias: Tensor | None, class_weight: Tensor | None,
    probability: Tensor, target: Tensor, smoothing: Tensor, wanted: list[bool], with_squares: bool = False,
) -> list[Tensor]:
    factors = torch.stack([rows.sums[:, 0], rows.logsumexp, probability, target, smoothing], 1)
    found: list[Tensor] = torch.ops.lmhead._vocabulary_shard_gradients(
        rows.hidden, weight, rows.ids, factors, bias=bias, temperature=rows.temperature, class_weight=class_weight,
        wanted=wanted, with_squares=with_squares, **problem.logits,
    )  # fmt: skip
    return found


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, class_weight: Tensor | None, target: Tensor,
        token_weight: Tensor | None, temperature: Tensor | None, reduction: str, problem: _Problem,
    ) -> Tensor:
        rows = _rows_of(problem, hidden, weight, bias, class_weight, target, temperature, with_scores=False)
        smoothing, classes = problem.label_smoothing, problem.vocab_size
        of_target = (1 - smoothing) * rows.target_weight
        losses = of_target * (rows.logsumexp - rows.target_logit) + problem.z_loss * rows.logsumexp.square()
        if smoothing:
            losses = losses + smoothing / classes * (rows.logsumexp * problem.weight_sum - rows.weighted)
        scale = torch.ones_like(losses) if token_weight is None else problem.whole(token_weight).double()
        losses = losses * scale
        if reduction == "mean":
            scale = scale / rows.target_weight.sum()
        probability = of_target + smoothing * problem.weight_sum / classes + 2 * problem.z_loss * rows.logsumexp
        ctx.save_for_backward(hidden, weight, bias, class_weight, rows.hidden, rows.ids, rows.sums, rows.temperature, rows.logsumexp)
        ctx.slopes = [scale * probability, scale * of_target, scale * (smoothing / classes)]
        ctx.problem, ctx.reduction = problem, reduction
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if reduction == "none":
            return problem.own(losses).to(wide)
        return (losses.sum() / rows.target_weight.sum() if reduction == "mean" else losses.sum()).to(wide)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # gradients that count as constants would be wrong without a word
            raise RuntimeError(f"{_WHO} create_graph must be false: there are no second derivatives")
        hidden, weight, bias, class_weight, whole, ids, sums, temperature, logsumexp = ctx.saved_tensors
        problem = ctx.problem
        above = problem.whole(upstream) if ctx.reduction == "none" else upstream
        none = torch.empty(0)
        rows = _Rows(whole, ids, sums, temperature, logsumexp, none, none, none, none, none)
        probability, target, smoothing = (above.double() * slope for slope in ctx.slopes)
        wanted = [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]
        d_hidden, d_weight, d_bias, _ = _gradients(problem, rows, weight, bias, class_weight, probability, target, smoothing, wanted)
        return (
            problem.summed(d_hidden).to(hidden.dtype) if wanted[0] else None,
            d_weight if wanted[1] else None,
            d_bias if wanted[2] else None,
            *[None] * 6,
        )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _local(tensor)


def _check_placement(tensor: Tensor | None, name: str) -> None:
    if isinstance(tensor, DTensor) and tensor.placements != (Shard(0),):
        raise ValueError(f"{_WHO} {name} must be a DTensor sharded over its rows alone, got placements {tensor.placements}")


def _agree(
    problem: _Problem, hidden: Tensor, weight: Tensor, class_weight: Tensor | None, target: Tensor, ignore_index: int
) -> None:
    """Fills in what no process knows alone; raises the same in all of them."""
    weights = float(weight.shape[0]) if class_weight is None else class_weight.sum(dtype=torch.float64).item()
    kinds = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    kind = kinds.index(hidden.dtype) if hidden.dtype in kinds else -1
    said = [*hidden.shape, kind, *weight.shape, weights, problem.is_sharded, class_weight is not None]
    everyone = problem.group.gather(torch.tensor(said, dtype=torch.float64, device=hidden.device)).tolist()
    for column, what in ((1, "features"), (2, "a type of input"), (6, "a hidden_layout"), (7, "class weights")):
        if len({of_process[column] for of_process in everyone}) > 1:
            raise ValueError(f"{_WHO} all processes must have the same {what.removeprefix('a ')}, got others")
    problem.sizes = [int(of_process[0]) for of_process in everyone]
    if not problem.is_sharded and len(set(problem.sizes)) > 1:
        raise ValueError(
            f"{_WHO} replicated input must have the same tokens in every process, got {', '.join(map(str, problem.sizes))} of them; "
            "hidden_layout='sharded' is for tokens of their own"
        )
    shards = [int(of_process[3]) for of_process in everyone]
    problem.first_row, problem.vocab_size = sum(shards[: problem.group.rank]), sum(shards)
    problem.weight_sum = sum(of_process[5] for of_process in everyone)
    targets = problem.whole(target)
    counts = targets != ignore_index
    wrong = targets[counts & ((targets < 0) | (targets >= problem.vocab_size))]
    if wrong.numel():
        raise ValueError(f"{_WHO} target must be below {problem.vocab_size} or ignore_index {ignore_index}, got {int(wrong[0])}")
    problem.kept = None if bool(counts.all()) else counts


def _prepare(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    group: dist.ProcessGroup | None,
    hidden_layout: str | None,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    token_weight: Tensor | None,
    temperature: Tensor | float | None,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    logits: dict[str, Any],
) -> tuple[_Problem, Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    for tensor, name in ((linear_weight, "linear_weight"), (linear_bias, "linear_bias"), (weight, "weight")):
        _check_placement(tensor, name)
    if isinstance(linear_weight, DTensor) and group is None:
        group = linear_weight.device_mesh.get_group()
    if isinstance(input, DTensor):
        if len(input.placements) != 1 or not isinstance(input.placements[0], (Replicate, Shard)):
            raise ValueError(f"{_WHO} input must be a DTensor that is replicated or sharded, got placements {input.placements}")
        layout = "replicated" if isinstance(input.placements[0], Replicate) else "sharded"
        if hidden_layout not in (None, layout):
            raise ValueError(f"{_WHO} hidden_layout must be {layout!r} as input's placements say, got {hidden_layout!r}")
        hidden_layout = layout
    hidden_layout = hidden_layout or "replicated"
    if hidden_layout not in _LAYOUTS:
        raise ValueError(f"{_WHO} hidden_layout must be 'replicated' or 'sharded', got {hidden_layout!r}")
    input, target, matrix = _local(input), _local(target), _local(linear_weight)
    linear_bias, weight, token_weight = (_local_or_none(one) for one in (linear_bias, weight, token_weight))
    if input.dim() == 0 or target.is_floating_point() or target.shape != input.shape[:-1]:
        raise ValueError(f"{_WHO} target must be ids of the shape {tuple(input.shape[:-1])} that goes with input, got {tuple(target.shape)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{_WHO} label_smoothing must be between 0 and 1, got {label_smoothing}")
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, matrix = input.to(dtype), matrix.to(dtype)
    hidden = input.reshape(-1, input.shape[-1])
    ids = target.reshape(-1).long()
    problem = _Problem(_Group(group), hidden_layout == "sharded", logits, label_smoothing, z_loss)
    _agree(problem, hidden, matrix, weight, ids, -100 if ignore_index is None else ignore_index)
    return (
        problem, hidden, matrix, linear_bias, weight, ids,
        _of_tokens(token_weight, "token_weight", input), _of_tokens(temperature, "temperature", input),
    )  # fmt: skip


@torch.compiler.disable
def vocabulary_parallel_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    hidden_layout: str | None = None,
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
) -> Tensor:
    r"""Cross-entropy of a linear map whose rows lie in the processes of a group; called by all of them.

    The loss is that of :func:`lmhead.linear_cross_entropy` with the whole of W, bias and class weights, and every option means
    what it means there. No process holds logits: one product forwards and three backwards over its own rows, beside a tile of
    logits a thread. What travels, of M tokens in all: 8 M float64 numbers a process forwards; the gradient of the features, in
    float32 or wider, summed over processes backwards; and where features are sharded these and the targets.

    Args:
        input: features ``[..., D]``; the same in every process (``hidden_layout='replicated'``, as under tensor parallelism), or
            each process's own (``'sharded'``, as under data and sequence parallelism; they need not be equally many).
        linear_weight: this process's rows of W, ``[U, D]``; rank r's follow those of rank r - 1. A DTensor sharded over rows is
            taken as it is, with its mesh's group where none is named.
        target: ids of the whole vocabulary, int64 ``[...]``, replicated or sharded as ``input`` is. No class probabilities.
        group: the process group; None: the DTensor's, else the default one, or this process alone where there is none.
        hidden_layout: ``'replicated'`` (what None means), or ``'sharded'``; of a DTensor its placement says it.
        linear_bias, weight: bias and class weights of these rows, ``[U]``.
        token_weight, temperature: ``[...]`` as ``target``, or one number.
        reduction: ``'none'``, the losses of the tokens that this process was given; ``'sum'`` or ``'mean'`` over the tokens of
            all processes, the same bits in each.

    Returns:
        The loss. Its gradients: of ``input`` the whole one, in every process or for its own tokens; of ``linear_weight`` and
        ``linear_bias`` those of this process's rows. They are gradients of the one loss, not of a sum over processes: nothing
        is left to be averaged. Upstream gradients of replicated losses must be the same everywhere, and all processes must call
        backward. First derivatives only. Under ``torch.compile`` the graph breaks here.

    Raises:
        ValueError: where shapes, types or targets do not fit; where they do not fit *together*, in all processes alike.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{_WHO} reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    logits = _logits(logit_scale, logit_softcap, sigmoid_cap, sigsoftmax)
    problem, hidden, matrix, bias, classes, ids, weights, heat = _prepare(
        input, linear_weight, target, group, hidden_layout, linear_bias, weight, token_weight, temperature, ignore_index,
        label_smoothing, z_loss, logits,
    )  # fmt: skip
    loss: Tensor = _CrossEntropy.apply(hidden, matrix, bias, classes, ids, weights, heat, reduction, problem)
    return loss.reshape(_local(target).shape) if reduction == "none" else loss


@torch.compiler.disable
def vocabulary_parallel_cross_entropy_with_statistics(
    input: Tensor, linear_weight: Tensor, target: Tensor, **options: Any
) -> tuple[Tensor, TokenStatistics]:
    """``vocabulary_parallel_cross_entropy`` with the same options, and what is known of every token that this process was given.

    The statistics are those of :func:`lmhead.linear_cross_entropy_with_statistics`, of plain cross-entropy whatever the options
    add to the loss. They cost three products more, one of them for the scores.
    """
    loss = vocabulary_parallel_cross_entropy(input, linear_weight, target, **options)
    of_logits = {name: options.get(name, default) for name, default in _LOGITS.items()}
    problem, hidden, matrix, bias, _, ids, _, heat = _prepare(
        input, linear_weight, target, options.get("group"), options.get("hidden_layout"), options.get("linear_bias"), None, None,
        options.get("temperature"), options.get("ignore_index"), 0.0, 0.0, _logits(**of_logits),
    )  # fmt: skip
    with torch.no_grad():
        rows = _rows_of(problem, hidden, matrix, bias, None, ids, heat, with_scores=True)
        ones = torch.ones_like(rows.logsumexp)
        d_hidden, _, _, squares = _gradients(
            problem, rows, matrix, bias, None, ones, ones, ones * 0, wanted=[True, False, False], with_squares=True
        )
        shape, hidden_shape = _local(target).shape, _local(input).shape
        log_probability, logsumexp, entropy = (
            problem.own(score).to(loss.dtype).reshape(shape)
            for score in (rows.target_logit - rows.logsumexp, rows.logsumexp, rows.entropy)
        )
        statistics = TokenStatistics(
            log_probability,
            logsumexp,
            entropy,
            problem.own(rows.correct).reshape(shape),
            problem.summed(squares).to(loss.dtype).reshape(shape),
            problem.summed(d_hidden).reshape(hidden_shape),
        )
    return loss, statistics


_LOGITS: dict[str, Any] = {"logit_scale": 1.0, "logit_softcap": 0.0, "sigmoid_cap": None, "sigsoftmax": False}


def _logits(
    logit_scale: float, logit_softcap: float, sigmoid_cap: tuple[float, float, float] | None, sigsoftmax: bool
) -> dict[str, Any]:
    return {
        "logit_scale": logit_scale,
        "logit_softcap": logit_softcap,
        "sigmoid_cap": sigmoid_cap or [],
        "sigsoftmax": sigsoftmax,
    }
