#include "lmhead/train/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>

#include "lmhead/kernels/projection.h"
#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

class Muon : public MomentumRule {
 public:
  using MomentumRule::MomentumRule;

 private:
  /// A fused projection is several matrices to Muon: each is orthogonalised by itself.
  void apply(at::Tensor& value, const at::Tensor& smoothed, const Parameter& parameter, double rate) const override {
    const std::vector<RowPart>& parts = parameter.parts;
    std::int64_t row = 0;
    for (std::size_t index = 0; index < std::max<std::size_t>(parts.size(), 1); ++index) {
      const std::int64_t rows = parts.empty() ? value.size(0) : parts[index].rows;
      const double shape = std::sqrt(std::max(1.0, double(rows) / double(value.size(1))));
      value.narrow(0, row, rows).add_(orthogonalise(smoothed.narrow(0, row, rows)), -rate * shape);
      row += rows;
    }
  }
};

}  // namespace

std::unique_ptr<UpdateRule> make_muon(const UpdateOptions& options, RuleMembers members) {
  return std::make_unique<Muon>(options, std::move(members));
}

at::Tensor orthogonalise(const at::Tensor& matrix) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;  // Jordan 2024: steep at zero, bounded near one
  const bool tall = matrix.size(0) > matrix.size(1);
  at::Tensor x = tall ? matrix.t() : matrix;
  x = x / (at::linalg_vector_norm(x) + 1e-7);
  for (int iteration = 0; iteration < 5; ++iteration) {
    const at::Tensor gram = matrix_product(x, x.t());
    x = kA * x + matrix_product(kB * gram + kC * matrix_product(gram, gram), x);
  }
  return tall ? x.t() : x;
}

}  // namespace lmhead
