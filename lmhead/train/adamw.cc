#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/scalar_tensor.h>

#include <map>

#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

class AdamW : public UpdateRule {
 public:
  AdamW(const UpdateOptions& options, RuleMembers members)
      : UpdateRule(std::move(members)), options_(options), exp_avg_(zeros()), exp_avg_sq_(zeros()) {
    if (options_.amsgrad) max_exp_avg_sq_ = zeros();
    for (std::size_t index = 0; index < members_.rates.size(); ++index) calls_[members_.rates[index]].push_back(index);
  }

  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    for (const auto& [rates, members] : calls_) {
      std::vector<at::Tensor> values, grads, averages, squares, largest;
      for (const std::size_t index : members) {
        const at::Tensor& gradient = gradients[members_.places[index]];
        if (!gradient.defined()) continue;
        values.push_back(value(index));
        grads.push_back(gradient);
        averages.push_back(exp_avg_[index]);
        squares.push_back(exp_avg_sq_[index]);
        if (options_.amsgrad) largest.push_back(max_exp_avg_sq_[index]);
      }
      if (values.empty()) continue;
      const std::vector<at::Tensor> counts(values.size(), at::scalar_tensor(double(step), values[0].options()));
      at::_fused_adamw_(values, grads, averages, squares, largest, counts, rates.learning_rate * factor,
                        options_.betas[0], options_.betas[1], rates.weight_decay, options_.eps, options_.amsgrad,
                        /*maximize=*/false);
    }
  }
  void append_state(NamedTensors& state) override {
    append(state, "exp_avg", exp_avg_);
    append(state, "exp_avg_sq", exp_avg_sq_);
    append(state, "max_exp_avg_sq", max_exp_avg_sq_);
  }

 private:
  UpdateOptions options_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_, max_exp_avg_sq_;
  std::map<Rates, std::vector<std::size_t>> calls_;  // one call of the kernel each
};

}  // namespace

std::unique_ptr<UpdateRule> make_adamw(const UpdateOptions& options, RuleMembers members) {
  return std::make_unique<AdamW>(options, std::move(members));
}

}  // namespace lmhead
