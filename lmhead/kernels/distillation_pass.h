// What linear_distillation computes, some rows at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "lmhead/kernels/linear_distillation.h"

namespace lmhead {

struct DistillationArguments {
  at::Tensor hidden;
  LinearMap map;
  at::Tensor teacher_hidden;
  LinearMap teacher;
  DistillationOptions options;
};

struct DistillationResults {
  at::Tensor losses;                    // [N], weighted
  std::array<at::Tensor, 3> gradients;  // of hidden, weight and bias; undefined where not wanted
};

/// `upstream` [N] or 0-dim multiplies each token's loss in the gradients.
DistillationResults distill(const DistillationArguments& arguments, const at::Tensor& upstream,
                            std::array<bool, 3> wanted);

/// Losses [n] of rows of logits, student's and teacher's, in the type of the loss.
at::Tensor divergences(const at::Tensor& student, const at::Tensor& teacher, const DistillationOptions& options);
/// `losses` [N] reduced.
at::Tensor reduced(const at::Tensor& losses, Reduction reduction);

}  // namespace lmhead
