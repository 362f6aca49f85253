"""The Python edge of lmhead.

Text to tokens, reports and TensorBoard are commands (``python -m lmhead``); ``lmhead.measure``,
``lmhead.GradientRetention``, ``lmhead.Scorer``, ``lmhead.linear_cross_entropy`` and ``lmhead.heads`` offer the native code to
any PyTorch program. They load libtorch and the native library on first use, so that the commands start without either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmhead import heads
    from lmhead.distillation import linear_distillation
    from lmhead.evaluate.scorer import Scorer
    from lmhead.logsumexp import (
        linear_entropy,
        linear_logsumexp,
        linear_multi_target_cross_entropy,
        linear_token_log_probabilities,
        target_logits,
    )
    from lmhead.ops import LinearCrossEntropyLoss, empty_cache, filtered_linear_cross_entropy, linear_cross_entropy
    from lmhead.retention import GradientRetention, measure
    from lmhead.vocabulary_parallel import (
        vocabulary_parallel_cross_entropy,
        vocabulary_parallel_cross_entropy_with_statistics,
    )

_NATIVE = {
    "GradientRetention": "retention",
    "Scorer": "evaluate.scorer",
    "measure": "retention",
    "LinearCrossEntropyLoss": "ops",
    "empty_cache": "ops",
    "filtered_linear_cross_entropy": "ops",
    "linear_cross_entropy": "ops",
    "linear_distillation": "distillation",
    "linear_entropy": "logsumexp",
    "linear_logsumexp": "logsumexp",
    "linear_multi_target_cross_entropy": "logsumexp",
    "linear_token_log_probabilities": "logsumexp",
    "target_logits": "logsumexp",
    "vocabulary_parallel_cross_entropy": "vocabulary_parallel",
    "vocabulary_parallel_cross_entropy_with_statistics": "vocabulary_parallel",
}

__all__ = [
    "GradientRetention",
    "LinearCrossEntropyLoss",
    "Scorer",
    "empty_cache",
    "filtered_linear_cross_entropy",
    "heads",
    "linear_cross_entropy",
    "linear_distillation",
    "linear_entropy",
    "linear_logsumexp",
    "linear_multi_target_cross_entropy",
    "linear_token_log_probabilities",
    "measure",
    "target_logits",
    "vocabulary_parallel_cross_entropy",
    "vocabulary_parallel_cross_entropy_with_statistics",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "heads":
        return importlib.import_module("lmhead.heads")
    if name not in _NATIVE:
        raise AttributeError(f"module 'lmhead' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lmhead.{_NATIVE[name]}"), name)
