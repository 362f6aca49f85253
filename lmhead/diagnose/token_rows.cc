#include "lmhead/diagnose/token_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/nonzero.h>

#include <algorithm>

#include "lmhead/base/error.h"

namespace lmhead {

at::Tensor rows_with_target(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t hidden_size,
                            std::int64_t vocab_size, std::string_view who) {
  require(hidden.defined() && hidden.dim() == 2 && hidden.size(1) == hidden_size &&
              at::isFloatingType(hidden.scalar_type()),
          who, "hidden must be floating [N, ", hidden_size, "], got ",
          hidden.defined() ? hidden.sizes() : at::IntArrayRef{});
  require(targets.defined() && targets.dim() == 1 && targets.size(0) == hidden.size(0) &&
              targets.scalar_type() == at::kLong,
          who, "targets must be int64 [", hidden.size(0), "], got ",
          targets.defined() ? targets.sizes() : at::IntArrayRef{});
  const at::Tensor kept = targets.ne(-100);
  const at::Tensor wrong = kept.logical_and(targets.lt(0).logical_or(targets.ge(vocab_size)));
  if (wrong.any().item<bool>()) {
    const std::int64_t row = wrong.nonzero()[0][0].item<std::int64_t>();
    fail(who, "targets must be -100 or lie in [0, ", vocab_size, "), got ", targets[row].item<std::int64_t>(),
         " in row ", row);
  }
  return kept.nonzero().squeeze(1);
}

at::Tensor select_rows(const at::Tensor& tensor, const at::Tensor& rows) {
  return rows.size(0) == tensor.size(0) ? tensor : tensor.index_select(0, rows);
}

std::int64_t rows_per_block(std::int64_t vocab_size) {
  return std::clamp<std::int64_t>((std::int64_t(1) << 24) / vocab_size, 16, 4096);
}

}  // namespace lmhead
