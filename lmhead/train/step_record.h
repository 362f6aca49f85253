// What the log says of a step.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "lmhead/base/json.h"
#include "lmhead/train/loss_scaling.h"
#include "lmhead/train/validation.h"

namespace lmhead {

/// One step as the log has it.
struct StepRecord {
  std::int64_t step, tokens;
  std::optional<double> loss;  // where it was read (training.log_every)
  double learning_rate, gradient_norm, tokens_per_second, wall_seconds, measure_seconds;
  std::optional<double> exchange_seconds;  // of the step, in which this process sent or waited for others
  std::optional<double> exchange_bytes;    // that it sent in it (Processes::sent_bytes)
  std::optional<Validation> validation;
  Json observations;          // by the observers' names, and what the head said of its loss
  LossScale loss_scale = {};  // that the step had; its skips count this one, whose gradient's norm is then not finite
};
Json to_json(const StepRecord& record);

}  // namespace lmhead
