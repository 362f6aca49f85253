#include <ATen/ops/linalg_vector_norm.h>

#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

class RowNormalized : public MomentumRule {
 public:
  using MomentumRule::MomentumRule;

 private:
  void apply(at::Tensor& value, const at::Tensor& smoothed, const Parameter&, double rate) const override {
    // Squares of small float32 numbers vanish, so norms are float64; below 1e-30 a row counts as without gradient.
    const at::Tensor norms = at::linalg_vector_norm(smoothed, 2, {1}, /*keepdim=*/true, at::kDouble);
    value.addcdiv_(smoothed, norms.clamp_min(1e-30).to(smoothed.scalar_type()), -rate);
  }
};

}  // namespace

std::unique_ptr<UpdateRule> make_row_normalized(const UpdateOptions& options, RuleMembers members) {
  return std::make_unique<RowNormalized>(options, std::move(members));
}

}  // namespace lmhead
