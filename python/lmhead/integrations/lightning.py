"""A callback of Lightning that measures the head while a module trains.

    Trainer(callbacks=[HeadCallback(every=100)])                              # a module with `.model` of transformers
    Trainer(callbacks=[HeadCallback(features=module_features, every=100)])    # any other
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lmhead.integrations.measurement import HeadMeasurement, random_state_kept
from lmhead.retention import in_evaluation_mode

__all__ = ["HeadCallback"]

Features = tuple[Tensor, Tensor, Tensor]


class HeadCallback(Callback):
    """Measures the batch in hand every so many optimiser steps, and logs through the module, to whatever logger is on.

    Figures are those of the weights after the step, on the step's last batch, in the first process. Nothing of training changes,
    not a bit.

    Args:
        features: of a module and a batch the head's weight [V, D], features [..., D] and targets [...]; called without gradients,
            in evaluation mode. None: the module is a causal language model of `transformers` or has one as ``model``, and
            batches are mappings with ``input_ids``.
        options: of :class:`lmhead.integrations.measurement.HeadMeasurement`: ``every``, ``max_tokens``, ``prefix``, ``figures``.

    Raises:
        ValueError: where options do not fit, and when training begins under a strategy that shards parameters.
    """

    def __init__(self, features: Callable[[Any, Any], Features] | None = None, **options: Any) -> None:
        super().__init__()
        self.features, self.measurement = features, HeadMeasurement(**options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        strategy = type(trainer.strategy).__name__
        if any(name in strategy for name in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise ValueError(f"[head callback] the head must be whole in every process, got the strategy {strategy}")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.measurement.is_due(trainer.global_step) or not trainer.is_global_zero:
            return
        figures = self._of_module(pl_module, batch) if self.features is not None else self.measurement.of_batch(_model_of(pl_module), batch)
        if figures:
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})

    def _of_module(self, module: Any, batch: Any) -> dict[str, float]:
        assert self.features is not None
        with in_evaluation_mode(module), random_state_kept(module), torch.no_grad():
            weight, hidden, targets = self.features(module, batch)
        return self.measurement.of_features(weight, hidden, targets)


def _model_of(module: Any) -> Any:
    for candidate in (module, getattr(module, "model", None)):
        if hasattr(candidate, "get_output_embeddings"):
            return candidate
    raise ValueError(
        "[head callback] the module must be a causal language model of transformers or have one as .model, or features be given, "
        f"got {type(module).__name__}"
    )
