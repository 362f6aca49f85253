"""A callback of `transformers.Trainer` that measures the head while a model trains.

    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    trainer.add_callback(HeadCallback(trainer, every=100))
"""

from __future__ import annotations

from typing import Any

from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback

from lmhead.integrations.measurement import HeadMeasurement, require_whole_head

__all__ = ["HeadCallback"]


class HeadCallback(TrainerCallback):
    """Measures the batch in hand every so many optimiser steps, and logs through the trainer, to whatever it reports to.

    The figures are those of the weights after the step, on the step's batch (the last one, under gradient accumulation), and of
    this process's batch where there are several processes, of which the first logs. A measurement is one forward pass without
    gradients in evaluation mode over at most ``max_tokens`` positions. Nothing of training changes, not a bit. Between
    measurements the cost is a reference to the batch; the model may be compiled.

    Args:
        trainer: whose model and loggers are used.
        options: of :class:`lmhead.integrations.measurement.HeadMeasurement`: ``every``, ``max_tokens``, ``prefix``, ``figures``.

    Raises:
        ValueError: where options do not fit, and when training begins with a head that is sharded (FSDP, DeepSpeed's third
            stage, tensor parallelism) or none.
    """

    def __init__(self, trainer: Trainer, **options: Any) -> None:
        if not isinstance(trainer, Trainer):
            raise ValueError(f"[head callback] trainer must be a transformers.Trainer, got {type(trainer).__name__}")
        self.measurement = HeadMeasurement(**options)
        self._trainer = trainer
        self._batch: Any = None
        self._replaced: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("[head callback] the head must be whole in every process, got a trainer with FSDP or DeepSpeed")
        require_whole_head(trainer.model)
        if self._replaced is not None:  # of a training that was broken off
            return
        # The one place that sees every batch as the model gets it, outside of what is compiled.
        self._replaced = trainer.training_step

        def training_step(model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
            self._batch = inputs
            return self._replaced(model, inputs, *more, **options)

        setattr(trainer, "training_step", training_step)  # noqa: B010  (of this trainer alone)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        batch, self._batch = self._batch, None
        if batch is None or not self.measurement.is_due(state.global_step):
            return
        model = self._trainer.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
        figures = self.measurement.of_batch(model, batch)
        if figures and state.is_world_process_zero:
            is_to_log = control.should_log
            self._trainer.log(figures)
            control.should_log = is_to_log  # which logging takes back, so that the step's own loss would be left out

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._replaced is not None:
            del self._trainer.training_step
            if self._trainer.training_step != self._replaced:  # somebody had put another in its place before
                setattr(self._trainer, "training_step", self._replaced)  # noqa: B010
            self._replaced = self._batch = None
