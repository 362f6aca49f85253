#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

class Sgd : public MomentumRule {
 public:
  using MomentumRule::MomentumRule;

 private:
  void apply(at::Tensor& value, const at::Tensor& smoothed, const Parameter&, double rate) const override {
    value.add_(smoothed, -rate);
  }
};

}  // namespace

std::unique_ptr<UpdateRule> make_sgd(const UpdateOptions& options, RuleMembers members) {
  return std::make_unique<Sgd>(options, std::move(members));
}

}  // namespace lmhead
