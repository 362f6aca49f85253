"""Gradient retention for any PyTorch model: the C++ of `lmhead measure`, called from a user's own loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lmhead import ops as _ops  # noqa: F401  (loads the library that has the class)
from lmhead.linear_head import linear_head
from lmhead.vocabulary_parallel import group_of_rows, vocabulary_parallel_cross_entropy_with_statistics

__all__ = ["GradientRetention", "measure"]

# What a tokenizer can return besides.
_NOT_FOR_MODELS = ("special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length")

Batch = Tensor | Sequence[Any] | Mapping[str, Any]


class GradientRetention:
    """How much of the logit gradient a linear head lets through, accumulated over batches.

    ``logits = softcap(logit_scale * (hidden @ weight.T + bias))``; the figures and their formulae are in
    ``docs/glossary.md``. The weight is looked at once: make a new object where it has changed. Memory: D x D float64, a
    block of logits, and one copy of the weight where it is ill-conditioned or narrower than float32. Arithmetic: float32
    products (float64 for a float64 weight), float64 Gram matrix and sums. On the weight's device, to which features and
    targets of another are copied. Pickles and deep copies hold the weight and the sums so far.

    Of a head whose rows lie in several processes nothing is gathered: D x D float64 numbers travel when the object is made,
    and for every batch what :func:`lmhead.vocabulary_parallel_cross_entropy_with_statistics` sends. All processes call every
    method, and get the same figures.

    Args:
        weight: [V, D] of any floating type; of several processes, the rows of this one, which follow those of the rank
            before. A DTensor sharded over rows is taken as it is, with its mesh's group.
        bias: [V] or None; of these rows.
        logit_scale: factor of the logits.
        logit_softcap: c of ``c * tanh(z / c)``; 0 for none.
        center_weight: measure the column space of the weight less its mean row.
        group: the process group whose processes have rows; None: this process has all.
        hidden_layout: ``'replicated'``, every process is given the same tokens, or ``'sharded'``, each its own.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        logit_scale: float = 1.0,
        logit_softcap: float = 0.0,
        center_weight: bool = False,
        group: dist.ProcessGroup | None = None,
        hidden_layout: str = "replicated",
    ) -> None:
        if hidden_layout not in ("replicated", "sharded"):
            raise ValueError(f"[gradient_retention] hidden_layout must be 'replicated' or 'sharded', got {hidden_layout!r}")
        if isinstance(weight, DTensor):
            group = group or group_of_rows(weight, "[gradient_retention] weight")
            weight, bias = weight.to_local(), bias.to_local() if isinstance(bias, DTensor) else bias
        self._group, self._hidden_layout = group, hidden_layout
        self._arguments = (
            weight.detach(),
            None if bias is None else bias.detach().to(weight.device),
            float(logit_scale),
            float(logit_softcap),
            bool(center_weight),
        )
        self._native: Any = self._make()

    def _make(self) -> Any:
        where = ("", 0, 1)
        if self._group is not None and dist.get_world_size(self._group) > 1:
            where = (self._group.group_name, dist.get_rank(self._group), dist.get_world_size(self._group))
        return torch.classes.lmhead.GradientRetention(*self._arguments, *where)

    def update(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Adds features [..., D] with integer targets [...] (-100: left out).

        Returns the retained share of each counted token's squared gradient, [n] float64; NaN where that gradient is zero.
        """
        if hidden.dim() == 0 or targets.shape != hidden.shape[:-1]:
            raise ValueError(
                f"[gradient_retention] targets must have the shape {tuple(hidden.shape[:-1])} that goes with hidden, "
                f"got {tuple(targets.shape)}"
            )
        _check_integers("[gradient_retention] targets", targets)
        device = self._arguments[0].device
        targets = targets.detach().to(device, torch.int64).reshape(-1)
        hidden = hidden.detach().to(device).reshape(-1, hidden.shape[-1])
        return self._native.update(hidden, targets) if self._group is None else self._update_together(hidden, targets)

    def _update_together(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The same where the group has the rows: its processes compute the statistics, of features that the class makes."""
        _, _, logit_scale, logit_softcap, _ = self._arguments
        _, statistics = vocabulary_parallel_cross_entropy_with_statistics(
            self._native.features(hidden), self._native.weight(), targets, group=self._group, hidden_layout=self._hidden_layout,
            linear_bias=self._native.bias(), logit_scale=logit_scale, logit_softcap=logit_softcap,
        )  # fmt: skip
        counted = targets != -100
        of_counted = (statistics.logit_gradient_square, statistics.hidden_gradient, statistics.log_probability, statistics.correct)
        return self._native.add(*(values[counted] for values in of_counted))

    def compute(self) -> dict[str, float]:
        """Every figure over all tokens so far, by its name in the glossary. Raises where there was no token."""
        figures = dict(self._native.compute(self._hidden_layout == "sharded"))
        return figures | {key: int(figures[key]) for key in ("head_rank", "tokens")}

    def reset(self) -> None:
        """Forgets every token; the weight stays."""
        self._native.reset()

    def __getstate__(self) -> dict[str, Any]:
        if self._group is not None:
            raise TypeError("[gradient_retention] a weight that several processes have cannot be pickled, got a process group")
        return {"arguments": self._arguments, "sums": self._native.sums()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arguments = tuple(state["arguments"])
        self._group, self._hidden_layout = None, "replicated"
        self._native = self._make()
        self._native.add_sums(state["sums"])


@contextlib.contextmanager
def in_evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards each in its own again: part of a model may be kept there."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def measure(model: Any, batches: Iterable[Batch], **options: Any) -> dict[str, float]:
    """Measures the gradient retention of a causal language model of `transformers`.

    The output embedding, a logit soft-cap or scale, and the features that enter the head are found through the model's
    configuration and a hook; on the first batch the logits that follow from them are compared with the model's own, and a
    model whose head is something else is refused rather than measured wrongly.

    A token counts where the position before it predicts it: both are inside ``attention_mask``, where there is one, and
    ``position_ids``, where there are some, go on from the one to the other (rows of several documents begin again at 0).

    Args:
        model: a causal language model with ``get_output_embeddings()``.
        batches: token ids [B, T] or [T], as a tensor or as lists, or mappings (a ``BatchEncoding`` is one) with
            ``input_ids`` and perhaps ``attention_mask``, ``position_ids`` and ``labels``, each [B, T] or [T]. Targets are
            the labels (-100: left out), or else the ids, one position on; nothing crosses a row.
        options: keyword arguments of :class:`GradientRetention`, such as ``center_weight``.
    """
    if isinstance(batches, Mapping):
        raise ValueError("[measure] batches must be an iterable of batches, got a mapping: put one batch into a list")
    head = linear_head(model)
    retention = GradientRetention(head.weight, head.bias, logit_scale=head.scale, logit_softcap=head.softcap, **options)
    checked = False
    with in_evaluation_mode(model), head.features() as features:
        for batch in batches:
            inputs, targets = _inputs_and_targets(batch, head.known_ids, head.weight.device)
            if targets.numel() == 0:
                continue
            features.clear()
            with torch.no_grad():
                logits = model(**inputs).logits
            if len(features) != 1 or features[0].shape[:-1] != inputs["input_ids"].shape:
                raise ValueError("[measure] the head must be applied once to every position, got another use of it")
            counted = targets != -100
            hidden = features[0][:, :-1][counted]
            if not checked and hidden.shape[0] > 0:
                head.check(hidden[-8:], logits[:, :-1][counted][-8:])
                checked = True
            retention.update(hidden, targets[counted])
    return retention.compute()


def _inputs_and_targets(batch: Batch, known_ids: int | None, device: torch.device) -> tuple[dict[str, Any], Tensor]:
    """What the model takes, in rows, and what each position but the last predicts, [B, T - 1] (-100: nothing that counts)."""
    inputs = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
    for name in _NOT_FOR_MODELS:
        inputs.pop(name, None)
    if "input_ids" not in inputs:
        raise ValueError(f"[measure] a batch must have input_ids, got {', '.join(map(str, inputs)) or 'nothing'}")
    ids = inputs["input_ids"] = _rows("input_ids", inputs["input_ids"], device)
    if ids.numel() > 0 and known_ids is not None and not 0 <= int(ids.min()) <= int(ids.max()) < known_ids:
        wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise ValueError(f"[measure] input_ids must be at least 0 and below the model's {known_ids} tokens, got {wrong}")

    def take(name: str) -> Tensor | None:
        if inputs.get(name) is None:
            return None
        rows = _rows(name, inputs[name], device)
        if name == "position_ids" and rows.shape[0] == 1:  # one row for all
            rows = rows.expand_as(ids) if rows.shape[1] == ids.shape[1] else rows
        if rows.shape != ids.shape:
            raise ValueError(f"[measure] {name} must have the shape {tuple(ids.shape)} of input_ids, got {tuple(rows.shape)}")
        inputs[name] = rows
        return rows

    labels, mask, positions = take("labels"), take("attention_mask"), take("position_ids")
    take("token_type_ids")
    inputs.pop("labels", None)
    targets = (ids if labels is None else labels)[:, 1:].clone()
    if mask is not None:
        targets[(mask[:, 1:] == 0) | (mask[:, :-1] == 0)] = -100
    if positions is not None:
        targets[positions[:, 1:] != positions[:, :-1] + 1] = -100
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            inputs[name] = value.to(device)
    return inputs, targets


def _rows(name: str, value: Any, device: torch.device) -> Tensor:
    """Integers [B, T]; a [T] becomes one row."""
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"[measure] {name} must be integers [B, T] or [T], got {_kind(value)}") from None
    if value.dim() not in (1, 2):
        raise ValueError(f"[measure] {name} must be [B, T] or [T], got {tuple(value.shape)}")
    if name == "attention_mask":  # which some have in floating numbers
        value = value != 0
    _check_integers(f"[measure] {name}", value)
    value = value.to(device, torch.int64)
    return value if value.dim() == 2 else value.unsqueeze(0)


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str) and len({_length(row) for row in value}) > 1:
        return "rows of different lengths: pad them, with an attention_mask"
    return type(value).__name__


def _length(row: Any) -> int | None:
    return len(row) if isinstance(row, Sequence) else None


def _check_integers(what: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{what} must be integers, got {tensor.dtype}")
