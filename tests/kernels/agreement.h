// How close a fast kernel must be to the float64 plain composition: at most twice as far as the plain composition in
// the kernel's own precision, plus a few units in the last place.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <string>

namespace lmhead::test {

/// Unit roundoff of a type.
inline double epsilon_of(at::ScalarType type) {
  return type == at::kDouble ? 2.3e-16 : type == at::kFloat ? 1.2e-7 : 7.9e-3;
}

/// `scale` is the size of the terms that the result is summed from, where they may cancel; `allowed` an error that has
/// another reason. The floor is there because the plain composition's error is one draw that may be small by luck (one
/// row, one column: often exactly 0), while any computation in the type rounds its input products, p and its result: a
/// few units in the last place of what is summed.
inline void expect_as_good_as_plain(const at::Tensor& fast, const at::Tensor& plain, const at::Tensor& exact,
                                    at::ScalarType type, double scale, const std::string& what, double allowed = 0) {
  ASSERT_EQ(fast.defined(), exact.defined()) << what;
  if (!exact.defined()) return;
  ASSERT_EQ(fast.sizes(), exact.sizes()) << what;
  if (exact.numel() == 0) return;
  const at::Tensor reference = exact.detach().to(at::kDouble);
  const double error = (fast.detach().to(at::kDouble) - reference).norm().item<double>();
  const double plain_error = (plain.detach().to(at::kDouble) - reference).norm().item<double>();
  // Where the reference is float64 itself, its own error is of the same size as what is measured.
  const double units = type == at::kDouble ? 128 : type == at::kFloat ? 8 : 1;
  const double floor = units * epsilon_of(type) * (reference.norm().item<double>() + scale);
  EXPECT_LE(error, 2 * plain_error + floor + allowed)
      << what << ": plain errs " << plain_error << ", norm " << reference.norm().item<double>();
}

}  // namespace lmhead::test
