#include "lmhead/diagnose/token_sample.h"

#include <ATen/ops/cat.h>

#include <algorithm>

namespace lmhead {

void TokenSample::add(const TokenBatch& batch, const TokenEnergies& energies) {
  const std::int64_t rows = std::min(capacity_ - size_, batch.targets.size(0));
  if (rows == 0) return;
  // Copies: the caller may reuse its buffers, and a view would keep the whole batch alive.
  hidden_.push_back(batch.hidden.narrow(0, 0, rows).clone());
  targets_.push_back(batch.targets.narrow(0, 0, rows).clone());
  totals_.push_back(energies.total.narrow(0, 0, rows).clone());
  if (batch.documents.defined()) documents_.push_back(batch.documents.narrow(0, 0, rows).clone());
  const auto sum = [rows](const at::Tensor& values) { return values.narrow(0, 0, rows).sum().item<double>(); };
  total_ += sum(energies.total);
  retained_ += sum(energies.retained);
  gradient_square_ += sum(energies.gradient_square);
  step_square_ += sum(energies.step_square);
  size_ += rows;
}

void TokenSample::reset() { *this = TokenSample(capacity_); }

at::Tensor TokenSample::hidden() const { return at::cat(hidden_); }
at::Tensor TokenSample::targets() const { return at::cat(targets_); }
at::Tensor TokenSample::totals() const { return at::cat(totals_); }
at::Tensor TokenSample::documents() const {
  return documents_.size() == targets_.size() ? at::cat(documents_) : at::Tensor();
}

}  // namespace lmhead
