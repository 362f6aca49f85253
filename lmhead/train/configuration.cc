#include "lmhead/train/configuration.h"

namespace lmhead {

void TrainingOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("steps", steps, "optimiser steps", at_least(1));
  visitor.field("seed", seed, "of initial values, and of the data's order where data.seed is null", at_least(0));
  visitor.field("precision", precision,
                "of products; master weights and the residual stream stay float32; under float16 the loss is scaled",
                {"float32", "bfloat16", "float16"});
  visitor.field("checkpoint_activations", checkpoint_activations,
                "keep the input of each block alone, and compute the block again in the backward pass: the same bits");
  visitor.field("clip_norm", clip_norm, "largest Euclidean norm of the whole gradient; 0: no clipping", at_least(0));
  visitor.field("threads", threads, "of every operation; null: as many as there are cores", between(1, 4096));
  visitor.field("device", device,
                "where the run computes: cpu, cuda, cuda:N, mps, or auto: an accelerator if one is there");
  visitor.field(
      "log_every", log_every,
      "steps between those whose loss is read from the device, validations' and the last one's beside; lines of "
      "the log between have none",
      at_least(1));
  visitor.field("validate_every", validate_every, "steps between validations; 0: only after the last step",
                at_least(0));
  visitor.field("checkpoint_every", checkpoint_every, "steps between checkpoints; 0: only after the last step",
                at_least(0));
  visitor.field("keep_last", keep_last, "newest checkpoints that stay, beside the best", at_least(1));
  visitor.field("initial_weights", initial_weights,
                "safetensors file with every parameter, such as a checkpoint's; empty: drawn from the seed");
}

at::ScalarType TrainingOptions::working_type() const {
  return precision == "bfloat16" ? at::kBFloat16 : precision == "float16" ? at::kHalf : at::kFloat;
}

void ParallelOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("optimizer", optimizer,
                "whether each of several processes has all of the optimiser's state, or a part of it and of its work",
                {"replicated", "sharded"});
  visitor.field("vocabulary", vocabulary,
                "whether each of several processes has the rows of its words alone, of the embedding and of the head; "
                "auto: where less is sent then, and the head allows it",
                {"off", "on", "auto"});
}

void TrainConfiguration::visit_fields(FieldVisitor& visitor) {
  visitor.group("data", data, "what is learned");
  visitor.group("model", model, "the decoder");
  visitor.group("head", head, "the LM head");
  visitor.group("loss", loss, "what is added to cross-entropy");
  visitor.group("head_gradient", head_gradient, "what is changed of the gradients that leave the head");
  visitor.group("optimizer", optimizer, "the optimiser");
  visitor.group("schedule", schedule, "the learning rate over the run");
  visitor.group("training", training, "the run itself");
  visitor.group("parallel", parallel, "how several processes share the work");
}

}  // namespace lmhead
