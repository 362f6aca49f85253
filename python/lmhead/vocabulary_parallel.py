"""Cross-entropy of a head whose rows lie in several processes, without holding logits anywhere.

Rank r of a group holds the rows of W, of the bias and of the class weights that follow those of rank r - 1; shards need not be
equally long. Of every token 8 numbers a process travel forwards, and one gradient of the features backwards.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from lmhead.ops import TokenStatistics, _of_tokens
from lmhead.token_exchange import Group, Tokens

__all__ = ["vocabulary_parallel_cross_entropy", "vocabulary_parallel_cross_entropy_with_statistics"]

_WHO = "[vocabulary_parallel_cross_entropy]"
_LAYOUTS = ("replicated", "sharded")


@dataclass
class _Problem:
    """What this process was given, and what all have agreed on. Rows are tokens: N here, M that count in all processes."""

    hidden: Tensor  # [N, D]
    weight: Tensor  # [U, D], and of its rows
    bias: Tensor | None
    class_weight: Tensor | None
    target: Tensor  # [N], and of these
    token_weight: Tensor | None
    temperature: Tensor | None
    logits: dict[str, Any]  # what shapes them, in the words of the native operations
    label_smoothing: float
    z_loss: float
    reduction: str
    tokens: Tokens
    first_row: int = 0
    vocab_size: int = 0
    weight_sum: float = 0.0  # of the class weights of the whole vocabulary


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


def _rows_of(problem: _Problem, with_scores: bool) -> _Rows:
    weight, tokens = problem.weight, problem.tokens
    whole = tokens.whole(problem.hidden)
    ids = tokens.whole(problem.target) - problem.first_row
    ids = torch.where((ids >= 0) & (ids < weight.shape[0]), ids, -1)
    heat = None if problem.temperature is None else tokens.whole(problem.temperature)
    sums = torch.ops.lmhead._vocabulary_shard_sums(
        whole, weight, ids, bias=problem.bias, temperature=heat, class_weight=problem.class_weight,
        with_weighted=problem.label_smoothing != 0, with_scores=with_scores, **problem.logits,
    )  # fmt: skip
    is_here = ids >= 0
    of_target = is_here.double()
    if problem.class_weight is not None:
        of_target = torch.where(is_here, problem.class_weight.double()[ids.clamp_min(0)], 0.0)
    # One exchange: what every process knows of a token.
    everyone = tokens.group.gather(torch.cat([sums, of_target.unsqueeze(1), is_here.double().unsqueeze(1)], 1))
    largest, logsumexps, of_words, weighted, entropies, corrects, weights, has_target = everyone.unbind(2)
    logsumexp = torch.logsumexp(logsumexps, 0)
    share = (logsumexps - logsumexp).exp()
    # The target is first among the largest where no earlier shard has as large a logit and no later one a larger.
    rank = torch.arange(tokens.group.size, device=whole.device).unsqueeze(1)
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
    problem: _Problem, rows: _Rows, class_weight: Tensor | None, probability: Tensor, target: Tensor, smoothing: Tensor,
    wanted: list[bool], with_squares: bool = False,
) -> list[Tensor]:
    factors = torch.stack([rows.sums[:, 0], rows.logsumexp, probability, target, smoothing], 1)
    found: list[Tensor] = torch.ops.lmhead._vocabulary_shard_gradients(
        rows.hidden, problem.weight, rows.ids, factors, bias=problem.bias, temperature=rows.temperature,
        class_weight=class_weight, wanted=wanted, with_squares=with_squares, **problem.logits,
    )  # fmt: skip
    return found


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: _Problem, rows: _Rows) -> Tensor:
        smoothing, classes, tokens = problem.label_smoothing, problem.vocab_size, problem.tokens
        of_target = (1 - smoothing) * rows.target_weight
        losses = of_target * (rows.logsumexp - rows.target_logit) + problem.z_loss * rows.logsumexp.square()
        if smoothing:
            losses = losses + smoothing / classes * (rows.logsumexp * problem.weight_sum - rows.weighted)
        scale = torch.ones_like(losses) if problem.token_weight is None else tokens.whole(problem.token_weight).double()
        losses = losses * scale
        if problem.reduction == "mean":
            scale = scale / rows.target_weight.sum()
        probability = of_target + smoothing * problem.weight_sum / classes + 2 * problem.z_loss * rows.logsumexp
        ctx.save_for_backward(hidden, weight, bias)  # which must not change before the backward pass
        ctx.slopes = [scale * probability, scale * of_target, scale * (smoothing / classes)]
        ctx.problem, ctx.rows = problem, rows
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if problem.reduction == "none":
            return tokens.own(losses).to(wide)
        return (losses.sum() / rows.target_weight.sum() if problem.reduction == "mean" else losses.sum()).to(wide)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # gradients that count as constants would be wrong without a word
            raise RuntimeError(f"{_WHO} create_graph must be false: there are no second derivatives")
        hidden, _, bias = ctx.saved_tensors
        problem = ctx.problem
        above = problem.tokens.whole(upstream) if problem.reduction == "none" else upstream
        probability, target, smoothing = (above.double() * slope for slope in ctx.slopes)
        wanted = [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]
        found = _gradients(problem, ctx.rows, problem.class_weight, probability, target, smoothing, wanted)
        d_hidden, d_weight, d_bias, _ = found
        return (
            problem.tokens.summed(d_hidden).to(hidden.dtype) if wanted[0] else None,
            d_weight if wanted[1] else None,
            d_bias if wanted[2] else None,
            None,
            None,
        )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _local(tensor)


def _check_placement(tensor: Tensor | None, what: str) -> None:
    if isinstance(tensor, DTensor) and tensor.placements != (Shard(0),):
        raise ValueError(f"{what} must be a DTensor sharded over its rows alone, got placements {tensor.placements}")


def group_of_rows(weight: DTensor, what: str) -> dist.ProcessGroup:
    """Of a matrix that is sharded over its rows alone."""
    _check_placement(weight, what)
    return weight.device_mesh.get_group()


def _agree(problem: _Problem, ignore_index: int) -> None:
    """Fills in what no process knows alone; raises the same in all of them."""
    hidden, weight, class_weight, tokens = problem.hidden, problem.weight, problem.class_weight, problem.tokens
    weights = float(weight.shape[0]) if class_weight is None else class_weight.sum(dtype=torch.float64).item()
    kinds = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    kind = kinds.index(hidden.dtype) if hidden.dtype in kinds else -1
    said = [*hidden.shape, kind, *weight.shape, weights, tokens.is_sharded, class_weight is not None]
    everyone = tokens.group.gather(torch.tensor(said, dtype=torch.float64, device=hidden.device)).tolist()
    for column, what in ((1, "features"), (2, "a type of input"), (6, "a hidden_layout"), (7, "class weights")):
        if len({of_process[column] for of_process in everyone}) > 1:
            raise ValueError(f"{_WHO} all processes must have the same {what.removeprefix('a ')}, got others")
    tokens.sizes = [int(of_process[0]) for of_process in everyone]
    if not tokens.is_sharded and len(set(tokens.sizes)) > 1:
        raise ValueError(
            f"{_WHO} replicated input must have the same tokens in every process, got {', '.join(map(str, tokens.sizes))} of them; "
            "hidden_layout='sharded' is for tokens of their own"
        )
    shards = [int(of_process[3]) for of_process in everyone]
    problem.first_row, problem.vocab_size = sum(shards[: tokens.group.rank]), sum(shards)
    problem.weight_sum = sum(of_process[5] for of_process in everyone)
    targets = tokens.whole(problem.target)
    counts = targets != ignore_index
    wrong = targets[counts & ((targets < 0) | (targets >= problem.vocab_size))]
    if wrong.numel():
        raise ValueError(f"{_WHO} target must be below {problem.vocab_size} or ignore_index {ignore_index}, got {int(wrong[0])}")
    tokens.kept = None if bool(counts.all()) else counts


def _prepare(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    group: dist.ProcessGroup | None,
    hidden_layout: str | None,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    token_weight: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    temperature: Tensor | float | None,
    sigmoid_cap: tuple[float, float, float] | None,
    **logits: Any,
) -> _Problem:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{_WHO} reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    for tensor, name in ((linear_weight, "linear_weight"), (linear_bias, "linear_bias"), (weight, "weight")):
        _check_placement(tensor, f"{_WHO} {name}")
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
    problem = _Problem(
        hidden=input.reshape(-1, input.shape[-1]),
        weight=matrix,
        bias=linear_bias,
        class_weight=weight,
        target=target.reshape(-1).long(),
        token_weight=_of_tokens(token_weight, "token_weight", input),
        temperature=_of_tokens(temperature, "temperature", input),
        logits={"sigmoid_cap": sigmoid_cap or [], **logits},
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
        tokens=Tokens(Group(group, _WHO), hidden_layout == "sharded"),
    )
    _agree(problem, -100 if ignore_index is None else ignore_index)
    return problem


def _compute(
    input: Tensor, linear_weight: Tensor, target: Tensor, with_statistics: bool, options: dict[str, Any]
) -> tuple[Tensor, TokenStatistics | None]:
    problem = _prepare(input, linear_weight, target, **options)
    with torch.no_grad():
        rows = _rows_of(problem, with_scores=with_statistics)
    loss: Tensor = _CrossEntropy.apply(problem.hidden, problem.weight, problem.bias, problem, rows)
    if problem.reduction == "none":
        loss = loss.reshape(_local(target).shape)
    return loss, _statistics_of(problem, rows, _local(input).shape) if with_statistics else None


@torch.no_grad()
def _statistics_of(problem: _Problem, rows: _Rows, shape: torch.Size) -> TokenStatistics:
    """Of plain cross-entropy, for features [..., D] of that shape."""
    tokens, ones = problem.tokens, torch.ones_like(rows.logsumexp)
    d_hidden, _, _, squares = _gradients(problem, rows, None, ones, ones, ones * 0, [True, False, False], with_squares=True)
    wide = torch.promote_types(problem.hidden.dtype, torch.float32)
    log_probability, logsumexp, entropy = (
        tokens.own(score).to(wide).reshape(shape[:-1]) for score in (rows.target_logit - rows.logsumexp, rows.logsumexp, rows.entropy)
    )
    return TokenStatistics(
        log_probability,
        logsumexp,
        entropy,
        tokens.own(rows.correct).reshape(shape[:-1]),
        tokens.summed(squares).to(wide).reshape(shape[:-1]),
        tokens.summed(d_hidden).reshape(shape),
    )


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
    options = {
        "group": group, "hidden_layout": hidden_layout, "linear_bias": linear_bias, "weight": weight, "token_weight": token_weight,
        "reduction": reduction, "ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss,
        "temperature": temperature, "logit_scale": logit_scale, "logit_softcap": logit_softcap, "sigmoid_cap": sigmoid_cap,
        "sigsoftmax": sigsoftmax,
    }  # fmt: skip
    return _compute(input, linear_weight, target, False, options)[0]


_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(vocabulary_parallel_cross_entropy).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


@torch.compiler.disable
def vocabulary_parallel_cross_entropy_with_statistics(
    input: Tensor, linear_weight: Tensor, target: Tensor, **options: Any
) -> tuple[Tensor, TokenStatistics]:
    """``vocabulary_parallel_cross_entropy`` with the same options, and what is known of every token that this process was given.

    The statistics are those of :func:`lmhead.linear_cross_entropy_with_statistics`, of plain cross-entropy whatever the options
    add to the loss. They cost two products more.
    """
    unknown = options.keys() - _DEFAULTS.keys()
    if unknown:
        raise TypeError(f"{_WHO} options must be {', '.join(_DEFAULTS)}, got {min(unknown)!r}")
    loss, statistics = _compute(input, linear_weight, target, True, {**_DEFAULTS, **options})
    assert statistics is not None
    return loss, statistics
