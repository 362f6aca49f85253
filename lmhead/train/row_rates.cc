#include "lmhead/train/row_rates.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

struct ScaledRows {
  std::size_t place;   // in the list of parameters
  at::Tensor factors;  // [rows, 1], on the parameter's device
};

class RowRates : public Optimizer {
 public:
  RowRates(std::unique_ptr<Optimizer> optimizer, ParameterList parameters, std::vector<ScaledRows> scaled)
      : optimizer_(std::move(optimizer)), parameters_(std::move(parameters)), scaled_(std::move(scaled)) {}

  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> before;
    for (const ScaledRows& rows : scaled_) before.push_back(parameters_[rows.place]->value.detach().clone());
    optimizer_->step(gradients, step, factor);
    for (std::size_t index = 0; index < scaled_.size(); ++index) {
      at::Tensor value = parameters_[scaled_[index].place]->value.detach();
      // Not before + factor (value - before): where the factor is 1 the bits are the rule's.
      value.add_((value - before[index]).mul_(scaled_[index].factors - 1));
    }
  }
  NamedTensors state() override { return optimizer_->state(); }
  std::vector<TensorPieces> whole_state() override { return optimizer_->whole_state(); }
  std::vector<StoredRows> stored_state() override { return optimizer_->stored_state(); }

 private:
  std::unique_ptr<Optimizer> optimizer_;
  ParameterList parameters_;
  std::vector<ScaledRows> scaled_;
};

/// [V, 1] float32: `scale` for ids from rank `rare_from` on, 1 for the others.
at::Tensor factors_of(const at::Tensor& counts, std::int64_t rare_from, double scale) {
  at::Tensor factors = at::ones({counts.size(0), 1});
  if (rare_from > counts.size(0)) return factors;
  return factors.index_fill_(0, frequency_order(counts).slice(0, rare_from - 1), scale);
}

}  // namespace

std::unique_ptr<Optimizer> with_row_rates(std::unique_ptr<Optimizer> optimizer, const OptimizerOptions& options,
                                          const ParameterList& parameters, const ParameterList& word_rows,
                                          const std::function<at::Tensor()>& token_counts, const Share& share) {
  std::vector<ScaledRows> scaled;
  const auto groups = find_groups(options, parameters);
  for (std::size_t place = 0; place < parameters.size(); ++place) {
    if (!groups[place] || !options.groups[*groups[place]].rare_from) continue;
    const ParameterGroupOptions& group = options.groups[*groups[place]];
    const ParameterPtr& parameter = parameters[place];
    const auto where = [&] { return "optimizer.groups." + std::to_string(*groups[place]) + ".rare_from must be for "; };
    require(std::ranges::find(word_rows, parameter) != word_rows.end(), "config", where(),
            "matrices that have a row for each word, got ", parameter->name);
    const at::Tensor counts = token_counts();
    require(counts.defined(), "config", where(), "data whose tokens are counted, got none");
    at::Tensor factors = factors_of(counts, *group.rare_from, group.rare_learning_rate_scale);
    const std::int64_t rows = parameter->value.size(0);
    if (rows != factors.size(0)) factors = factors.narrow(0, share.begin(factors.size(0)), rows);
    scaled.push_back({place, factors.to(parameter->value.device())});
  }
  if (scaled.empty()) return optimizer;
  return std::make_unique<RowRates>(std::move(optimizer), parameters, std::move(scaled));
}

}  // namespace lmhead
