"""Every head of lmhead as a module of PyTorch: what `lmhead train` trains, over the features of any model.

    head = lmhead.heads.make("mixture_of_softmaxes", hidden_size, vocab_size, components=4)
    loss = head.loss(hidden, targets)
    log_p = head.log_probabilities(hidden)

`names` lists them, `describe` tells a head's formula, cost, memory, source and options; docs/heads.md has a paragraph on each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmhead import ops as _ops  # noqa: F401  (loads the library that has the class)

__all__ = ["Head", "HeadNeeds", "describe", "make", "names"]

IGNORED = -100
_PREFIX = "lm_head."


class HeadNeeds(NamedTuple):
    """What a head must be given beside features."""

    tokens: bool
    """Input ids, and with them the features of the whole context."""
    layers: tuple[int, ...]
    """Blocks of the body, counted from 0, whose features it takes."""
    targets_ahead: int
    """Further targets of a token that training looks at."""
    step: bool
    """Training draws, so that it must be told the step; heads with a schedule say so where they are asked."""


def names() -> list[str]:
    """Every head there is."""
    return [head["type"] for head in _descriptions()]


def describe(name: str) -> dict[str, Any]:
    """`type`, `formula`, `cost`, `memory`, `source` and `keys`: of each `key`, `type`, `default` and `meaning`."""
    for head in _descriptions():
        if head["type"] == name:
            return head
    raise ValueError(f"[head] name must be one of {', '.join(names())}, got {name!r}")


def _descriptions() -> list[dict[str, Any]]:
    return json.loads(torch.ops.lmhead.describe_heads())


def make(name: str, hidden_size: int, vocab_size: int, **options: Any) -> Head:
    """The head of that name; keyword arguments are those of :class:`Head` and the head's own options."""
    return Head(name, hidden_size, vocab_size, **options)


class Head(torch.nn.Module):
    """A map from features to a distribution over the vocabulary, and the loss that it is trained by.

    Parameters and state dict have the names of a checkpoint of `lmhead train`, without ``lm_head.``: a head that is a
    model's ``lm_head`` has exactly those. Constants, such as a permutation of the vocabulary, are buffers and stay float32.
    Products are computed in the type of the features, or that of autocast. Pickles and deep copies hold options and
    parameters. ``torch.compile`` breaks its graph where the head is called. On the CPU.

    Args:
        name: of the head; ``names()`` lists them.
        hidden_size, vocab_size: D and V.
        seed: of initial values and of what training draws; None: taken from torch's generator.
        initializer_range: standard deviation of a head matrix's initial values.
        num_hidden_layers: of the body, for heads that look into it.
        token_counts: int64 ``[V]``, how often each id occurs in the training data, for heads that order the vocabulary.
        token_bytes: the bytes of text that each id stands for, for heads that ask for them (``by="bytes"``, ``prefix``): a list of
            bytes, empty for ids that stand for none, or a tokenizer of ``tokenizers`` or a fast one of ``transformers``.
        trained_matrix: ``[V, D]`` of any D, the matrix of a trained head, for heads that cluster its rows (``by="kmeans"``).
        tied_embedding: the body's embedding ``[V, D]``, for heads that can share it.
        dtype: of the parameters.
        options: the head's own, as ``describe(name)["keys"]`` has them; groups are dictionaries.

    Raises:
        ValueError: one line that says what must hold and what was found.
    """

    def __init__(
        self,
        name: str,
        hidden_size: int,
        vocab_size: int,
        *,
        seed: int | None = None,
        initializer_range: float = 0.02,
        num_hidden_layers: int = 0,
        token_counts: Tensor | None = None,
        token_bytes: Any = None,
        trained_matrix: Tensor | None = None,
        tied_embedding: Tensor | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.hidden_size, self.vocab_size = int(hidden_size), int(vocab_size)
        self.seed = int(torch.randint(2**62, ())) if seed is None else int(seed)
        self._making = (int(num_hidden_layers), float(initializer_range))
        self._is_tied = tied_embedding is not None
        self._native = self._make(
            json.dumps({**options, "type": name}), self.seed, tied_embedding, token_counts, token_bytes, trained_matrix
        )
        self.options: dict[str, Any] = json.loads(self._native.options())
        self._places: list[tuple[str, bool]] = []
        own = [*self._native.take_parameters()]
        for index, (full_name, kind, value) in enumerate(own):
            is_constant = kind == "constant"
            place = full_name.removeprefix(_PREFIX)
            self._places.append((place, is_constant))
            module, leaf = self._module_of(place)
            if is_constant:
                module.register_buffer(leaf, value)
            elif self._is_tied and index == len(own) - 1:
                module.register_parameter(leaf, tied_embedding)  # type: ignore[arg-type]  # a Parameter, or torch says so
            else:
                module.register_parameter(leaf, torch.nn.Parameter(value))
        if dtype is not None:
            self.to(dtype)

    def _make(
        self,
        options: str,
        seed: int | None,
        tied_embedding: Tensor | None,
        token_counts: Tensor | None = None,
        token_bytes: Any = None,
        trained_matrix: Tensor | None = None,
    ) -> Any:
        layers, initializer_range = self._making
        tied = None if tied_embedding is None else tied_embedding.detach()
        try:
            return torch.classes.lmhead.Head(
                options,
                self.hidden_size,
                self.vocab_size,
                layers,
                initializer_range,
                seed,
                tied,
                token_counts,
                *_bytes_of_tokens(token_bytes),
                trained_matrix,
            )
        except RuntimeError as error:
            raise ValueError(str(error).splitlines()[0]) from None

    def _module_of(self, place: str) -> tuple[torch.nn.Module, str]:
        """The module that holds a parameter, made where there is none, and the parameter's name there."""
        *path, leaf = place.split(".")
        module: torch.nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        return module, leaf

    @property
    def name(self) -> str:
        """Of the head, as `names` has it."""
        return str(self.options["type"])

    @property
    def needs(self) -> HeadNeeds:
        """What calls must give beside features."""
        tokens, draws, targets_ahead, layers = self._native.needs()
        return HeadNeeds(tokens, tuple(layers), targets_ahead, draws)

    def flops_per_token(self, sequence_length: int) -> float:
        """Floating-point operations of training on one token of a sequence so long, in matrix products."""
        return float(self._native.flops_per_token(sequence_length))

    def memory_per_token(self, sequence_length: int) -> float:
        """Numbers that a training step keeps of every such token from the forward to the backward pass, beside its input."""
        return float(self._native.memory_per_token(sequence_length))

    def extra_repr(self) -> str:
        own = ", ".join(f"{key}={value!r}" for key, value in self.options.items() if key != "type")
        return f"{self.name!r}, {self.hidden_size}, {self.vocab_size}" + (f", {own}" if own else "")

    def loss(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        tokens: Tensor | None = None,
        layers: Sequence[Tensor] = (),
        documents: Tensor | None = None,
        step: int = 0,
        steps: int = 0,
        part: int = 0,
        reduction: str = "mean",
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """What training follows, 0-dim: of most heads the mean of :meth:`token_losses`; it may be sampled or have terms of its own.

        Args:
            hidden: features after the final norm, ``[B, T, D]``; ``[N, D]`` with N = B T where the tokens say B and T, or the
                head needs none.
            targets: int64, of the shape of ``hidden`` without D; the id that follows each position. -100 counts nothing.
            tokens: int64 ``[B, T]`` input ids, for heads that need them.
            layers: features after each of the blocks that ``needs.layers`` names, before the final norm, like ``hidden``.
            documents: int64 ``[B, T]``, which document a position's target is of, for rows of several.
            step, steps: where training stands, counted from 1, for heads that draw or have a schedule.
            part: which of the step's micro-batches this is.
            reduction: ``'mean'`` over the targets that count, or that times their number, ``'sum'``.
            z_loss, label_smoothing: terms that heads with one normaliser can add.
        """
        return self.loss_and_figures(
            hidden,
            targets,
            tokens=tokens,
            layers=layers,
            documents=documents,
            step=step,
            steps=steps,
            part=part,
            reduction=reduction,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
        )[0]

    def loss_and_figures(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        reduction: str = "mean",
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        **given: Any,
    ) -> tuple[Tensor, dict[str, float]]:
        """:meth:`loss`, and by name what the head says of how it came about."""
        if reduction not in ("mean", "sum"):
            raise ValueError(f"[head] reduction must be mean or sum, got {reduction!r}; token_losses gives each token's")
        rows, targets = self._counted(hidden, targets, takes_all=self.needs.targets_ahead > 0)
        count = int((targets != IGNORED).sum())
        if count == 0:  # as torch has it
            return (hidden.float().sum() * 0 if reduction == "sum" else hidden.new_tensor(float("nan"))), {}
        loss, figures = self._call(
            self._native.training_loss, hidden, rows, targets, float(z_loss), float(label_smoothing), **given
        )
        return (loss if reduction == "mean" else loss * count), dict(figures)

    def token_losses(self, hidden: Tensor, targets: Tensor, **given: Any) -> Tensor:
        """-log p of every target, exact over the whole vocabulary and differentiable, float32 or wider; 0 where it is -100.

        Of the shape of ``targets``; other arguments are those of :meth:`loss`.
        """
        rows, counted = self._counted(hidden, targets, takes_all=False)
        losses = self._call(self._native.token_losses, hidden, rows, counted, **given)
        if rows is not None:
            losses = losses.new_zeros(targets.numel()).index_copy(0, rows, losses)
        return losses.reshape(targets.shape)

    def log_probabilities(self, hidden: Tensor, **given: Any) -> Tensor:
        """log p of every word, ``[..., V]``, float32 or wider; arguments are those of :meth:`loss`."""
        return self._of_words(self._native.log_probabilities, hidden, given)

    def forward(self, hidden: Tensor, **given: Any) -> Tensor:
        """Logits ``[..., V]``, whose softmax is the head's distribution; of heads that form probabilities, their logarithms."""
        return self._of_words(self._native.logits, hidden, given)

    def after_update(self, step: int, steps: int) -> None:
        """To be called once an optimiser has updated the parameters, for heads that then change them (centring)."""
        self._native.after_update(self._tensors(), [self.seed, step, steps, 0])

    def _of_words(self, method: Callable[..., Tensor], hidden: Tensor, given: dict[str, Any]) -> Tensor:
        return self._call(method, hidden, None, **given).reshape(*hidden.shape[:-1], self.vocab_size)

    def _counted(self, hidden: Tensor, targets: Tensor, takes_all: bool) -> tuple[Tensor | None, Tensor]:
        """Which rows count, None for all, and their targets."""
        if hidden.dim() == 0 or targets.shape != hidden.shape[:-1]:
            raise ValueError(
                f"[head] targets must have the shape {tuple(hidden.shape[:-1])} that goes with hidden, got {tuple(targets.shape)}"
            )
        targets = targets.reshape(-1)
        counts = targets != IGNORED
        if takes_all or bool(counts.all()):
            return None, targets
        rows = counts.nonzero().squeeze(1)
        return rows, targets[rows]

    def _call(
        self,
        method: Callable[..., Any],
        hidden: Tensor,
        rows: Tensor | None,
        *more: Any,
        tokens: Tensor | None = None,
        layers: Sequence[Tensor] = (),
        documents: Tensor | None = None,
        step: int = 0,
        steps: int = 0,
        part: int = 0,
    ) -> Any:
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            hidden = hidden.to(torch.get_autocast_dtype(device))
        flat = [each.reshape(-1, each.shape[-1]) for each in (hidden, *layers)]
        tokens, documents = (_as_rows(ids, hidden) for ids in (tokens, documents))
        with torch.autocast(device, enabled=False):
            return method(
                self._tensors(), flat[0], tokens, flat[1:], documents, rows, [self.seed, step, steps, part], *more
            )

    def _tensors(self) -> list[Tensor]:
        """Parameters and constants in the order of the native head."""
        return [attrgetter(place)(self) for place, _ in self._places]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Head:
        constants = {place: self.get_buffer(place) for place, is_constant in self._places if is_constant}
        super()._apply(fn, recurse)
        for place, before in constants.items():
            module, leaf = self._module_of(place)
            after = module.get_buffer(leaf)
            if after.dtype != before.dtype:  # a permutation of 50,000 words does not survive bfloat16
                setattr(module, leaf, before.to(after.device))
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_native"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tied = self._tensors()[-1] if self._is_tied else None
        self._native = self._make(json.dumps(self.options), None, tied)
        self._native.take_parameters()


def _bytes_of_tokens(given: Any) -> tuple[list[Tensor], str | None]:
    """Bytes and where those of each id end, or a tokenizer's file as text."""
    if given is None:
        return [], None
    tokenizer = getattr(given, "backend_tokenizer", given)  # what a fast tokenizer of transformers is made of
    if hasattr(tokenizer, "to_str"):
        return [], tokenizer.to_str()
    if isinstance(given, (list, tuple)) and all(isinstance(each, bytes) for each in given):
        ends = torch.tensor([len(each) for each in given], dtype=torch.int64).cumsum(0)
        return [torch.tensor(list(b"".join(given)), dtype=torch.uint8), ends], None
    raise ValueError(f"[head] token_bytes must be a list of bytes, or a fast tokenizer, got {type(given).__name__}")


def _as_rows(ids: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Ids [B, T] that go with the features; [T] is one row."""
    if ids is None or ids.dim() == 2:
        return ids
    if ids.dim() != 1:
        raise ValueError(f"[head] tokens and documents must be [B, T], got {tuple(ids.shape)}")
    return ids.unsqueeze(0)
