#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

class Sign : public MomentumRule {
 public:
  using MomentumRule::MomentumRule;

 private:
  void apply(at::Tensor& value, const at::Tensor& smoothed, const Parameter&, double rate) const override {
    value.add_(smoothed.sign(), -rate / double(value.size(1)));
  }
};

}  // namespace

std::unique_ptr<UpdateRule> make_sign(const UpdateOptions& options, RuleMembers members) {
  return std::make_unique<Sign>(options, std::move(members));
}

}  // namespace lmhead
