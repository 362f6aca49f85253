#include "lmhead/diagnose/nonlinear_energies.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <limits>

#include "lmhead/diagnose/token_rows.h"

namespace lmhead {

TokenEnergies nonlinear_energies(const LmHead& head, const HeadInput& input, const at::Tensor& targets) {
  at::NoGradGuard no_grad;
  const std::int64_t count = targets.size(0), step = rows_per_block(head.vocab_size());
  TokenEnergies energies;
  const at::TensorOptions wide = targets.options().dtype(at::kDouble);
  energies.total = at::empty({count}, wide);
  energies.log_probability = at::empty({count}, wide);
  energies.correct = at::empty({count}, wide.dtype(at::kBool));
  energies.retained = energies.gradient_square = energies.step_square =
      at::full({count}, std::numeric_limits<double>::quiet_NaN(), wide);
  for (std::int64_t row = 0; row < count; row += step) {
    const std::int64_t rows = std::min(step, count - row);
    const at::Tensor logits = head.logits(input.narrow(row, rows));
    const at::Tensor log_p =
        at::log_softmax(logits.to(logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), 1);
    const at::Tensor index = targets.narrow(0, row, rows).unsqueeze(1), of_target = log_p.gather(1, index).squeeze(1);
    // ||p - y||^2 without cancellation: (1 - p_y)^2 and the squares of the others.
    const at::Tensor p = log_p.exp(), missing = of_target.to(at::kDouble).expm1();
    energies.total.narrow(0, row, rows)
        .copy_(p.scatter(1, index, 0).square().sum(1).to(at::kDouble) + missing.square());
    energies.log_probability.narrow(0, row, rows).copy_(of_target);
    energies.correct.narrow(0, row, rows).copy_(logits.argmax(1).eq(targets.narrow(0, row, rows)));
  }
  return energies;
}

}  // namespace lmhead
