"""Log probabilities of continuations under any model: the C++ that evaluation runs on, for a user's own requests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from lmhead import ops as _ops  # noqa: F401  (loads the library that has the class)
from lmhead.gguf.convert import convert, is_gguf

__all__ = ["Score", "Scorer"]


class Score(NamedTuple):
    """What a model says of one continuation."""

    log_probability: float  # nats, the sum over the continuation
    is_greedy: bool  # greedy decoding after the context gives the continuation
    tokens: int  # of the continuation


class Scorer:
    """Scores continuations of contexts, both as token ids, under any model that lmhead reads.

    Requests that follow each other share what they begin with, so the choices of one question run their context once;
    logits of context positions are never computed. What is longer than ``max_length`` loses its first tokens. Several
    threads may call one scorer at once. Log probabilities in float32 or wider, summed in float64.

    Args:
        model: a folder in the Hugging Face layout, a run's or a checkpoint's, or a .gguf file.
        max_length: tokens that the model sees at most; None: as many as it was made for.
        precision: of products, "float32" or "bfloat16".
        pass_tokens: tokens through the model at once; memory grows with it.
        device: where the model computes: "cpu", "cuda", "cuda:1", "mps", or "auto", an accelerator if there is one.
        keep_weights: False: of a pretrained model, blocks are read from its files whenever a call of ``score`` comes to
            them, once for four passes, so that memory holds one block in place of all; for calls with many requests. The
            first call of ``generate`` reads them all.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        precision: str = "float32",
        pass_tokens: int = 4096,
        device: str = "cpu",
        keep_weights: bool = True,
    ) -> None:
        place = convert(model) if is_gguf(model) else os.fspath(model)
        self._native = torch.classes.lmhead.Scorer(place, max_length or 0, precision, pass_tokens, device, keep_weights)
        self.description: dict[str, Any] = json.loads(self._native.describe())
        self.max_length: int = self.description["max_length"]
        self.vocab_size: int = self.description["vocab_size"]

    def score(self, requests: Iterable[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """A score for every pair of context ids and continuation ids, in their order.

        Raises RuntimeError, naming the request by its place, on an empty part, on a continuation longer than
        ``max_length`` and on an id outside the vocabulary.
        """
        ids: list[int] = []
        lengths: list[tuple[int, int]] = []
        for context, continuation in requests:
            ids.extend(context)
            ids.extend(continuation)
            lengths.append((len(context), len(continuation)))
        scores = self._native.score(
            torch.tensor(ids, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64).reshape(-1, 2)
        )
        return [Score(*score) for score in zip(*(column.tolist() for column in scores), strict=True)]

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        end_tokens: Sequence[int] = (),
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[int]:
        """The ids that follow ``prompt``, without it; the first of ``end_tokens`` is the last of them.

        Greedy at temperature 0, else drawn from the stream of ``seed``, as by ``lmhead sample``. Raises RuntimeError on an
        empty prompt, on ids outside the vocabulary and on options out of their range.
        """
        ids = torch.tensor(list(prompt), dtype=torch.int64)
        drawn = self._native.generate(ids, max_new_tokens, list(end_tokens), temperature, top_k, top_p, seed)
        return drawn.tolist()
