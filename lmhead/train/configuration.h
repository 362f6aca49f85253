// The part of a run's configuration that the trainer reads.
#pragma once

#include <c10/core/ScalarType.h>

#include "lmhead/data/data_options.h"
#include "lmhead/heads/head_gradient_options.h"
#include "lmhead/heads/lm_head.h"
#include "lmhead/models/decoder_options.h"
#include "lmhead/train/optimizer.h"
#include "lmhead/train/schedule.h"

namespace lmhead {

struct TrainingOptions {
  std::int64_t steps = 300;
  std::int64_t seed = 0;
  std::string precision = "float32";
  bool checkpoint_activations = false;
  double clip_norm = 1;
  std::optional<std::int64_t> threads;
  std::string device = "cpu";
  std::int64_t log_every = 1;
  std::int64_t validate_every = 100;
  std::int64_t checkpoint_every = 100;
  std::int64_t keep_last = 2;
  std::string initial_weights;
  void visit_fields(FieldVisitor& visitor);

  /// The type of products.
  at::ScalarType working_type() const;
};

/// How the processes of a run share the work; one alone has no use for it.
struct ParallelOptions {
  std::string optimizer = "replicated";
  std::string vocabulary = "off";
  void visit_fields(FieldVisitor& visitor);
};

struct TrainConfiguration {
  DataOptions data;
  DecoderOptions model;
  HeadSpecification head;
  LossOptions loss;
  HeadGradientOptions head_gradient;
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  TrainingOptions training;
  ParallelOptions parallel;
  void visit_fields(FieldVisitor& visitor);
};

}  // namespace lmhead
