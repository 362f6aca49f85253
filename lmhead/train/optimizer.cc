#include "lmhead/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

/// What one parameter is updated with.
struct Rates {
  double learning_rate, weight_decay;
  bool operator<(const Rates& other) const {
    return std::tie(learning_rate, weight_decay) < std::tie(other.learning_rate, other.weight_decay);
  }
};

bool is_body_matrix(const Parameter& parameter) { return parameter.kind == ParameterKind::kMatrix; }

std::vector<Rates> resolve_rates(const OptimizerOptions& options, const ParameterList& parameters) {
  std::vector<Rates> rates;
  std::vector<bool> matched(options.groups.size(), false);
  for (const ParameterPtr& parameter : parameters) {
    const bool matrix_rate = options.type == "muon" && is_body_matrix(*parameter);
    Rates own{matrix_rate ? options.matrix_learning_rate.value_or(options.learning_rate) : options.learning_rate,
              parameter->value.dim() >= 2 ? options.weight_decay : 0};
    for (std::size_t index = 0; index < options.groups.size(); ++index) {
      const ParameterGroupOptions& group = options.groups[index];
      if (::fnmatch(group.pattern.c_str(), parameter->name.c_str(), 0) != 0) continue;
      matched[index] = true;
      own.learning_rate = group.learning_rate.value_or(own.learning_rate) * group.learning_rate_scale;
      own.weight_decay = group.weight_decay.value_or(own.weight_decay);
      break;
    }
    rates.push_back(own);
  }
  for (std::size_t index = 0; index < matched.size(); ++index)
    require(matched[index], "config", "optimizer.groups.", index,
            ".pattern must match a parameter that no earlier group took, got \"", options.groups[index].pattern, '"');
  return rates;
}

/// One algorithm over the parameters that fall to it.
class Rule {
 public:
  Rule(ParameterList parameters, std::vector<Rates> rates, std::vector<std::size_t> places)
      : parameters_(std::move(parameters)), rates_(std::move(rates)), places_(std::move(places)) {}
  virtual ~Rule() = default;
  virtual void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) = 0;
  virtual void append_state(NamedTensors& state) = 0;

 protected:
  std::vector<at::Tensor> zeros() const {
    std::vector<at::Tensor> tensors;
    for (const ParameterPtr& parameter : parameters_) tensors.push_back(at::zeros_like(parameter->value.detach()));
    return tensors;
  }
  void append(NamedTensors& state, const char* name, const std::vector<at::Tensor>& tensors) const {
    for (std::size_t index = 0; index < tensors.size(); ++index)
      state.emplace_back(parameters_[index]->name + "." + name, tensors[index]);
  }
  ParameterList parameters_;
  std::vector<Rates> rates_;
  std::vector<std::size_t> places_;  // of each parameter in the whole list
};

class AdamW : public Rule {
 public:
  AdamW(const OptimizerOptions& options, ParameterList parameters, std::vector<Rates> rates,
        std::vector<std::size_t> places)
      : Rule(std::move(parameters), std::move(rates), std::move(places)),
        options_(options),
        exp_avg_(zeros()),
        exp_avg_sq_(zeros()) {
    for (std::size_t index = 0; index < rates_.size(); ++index) groups_[rates_[index]].push_back(index);
  }

  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    const at::Tensor count = at::scalar_tensor(double(step), at::kFloat);
    for (const auto& [rates, members] : groups_) {
      std::vector<at::Tensor> values, grads, averages, squares;
      for (const std::size_t index : members) {
        const at::Tensor& gradient = gradients[places_[index]];
        if (!gradient.defined()) continue;
        values.push_back(parameters_[index]->value.detach());
        grads.push_back(gradient);
        averages.push_back(exp_avg_[index]);
        squares.push_back(exp_avg_sq_[index]);
      }
      if (values.empty()) continue;
      const std::vector<at::Tensor> counts(values.size(), count.to(values[0].device()));
      at::_fused_adamw_(values, grads, averages, squares, {}, counts, rates.learning_rate * factor, options_.betas[0],
                        options_.betas[1], rates.weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false);
    }
  }
  void append_state(NamedTensors& state) override {
    append(state, "exp_avg", exp_avg_);
    append(state, "exp_avg_sq", exp_avg_sq_);
  }

 private:
  OptimizerOptions options_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
  std::map<Rates, std::vector<std::size_t>> groups_;  // one call of the kernel each
};

/// SGD and Muon: both keep one momentum buffer, and differ in what becomes of the smoothed gradient.
class Momentum : public Rule {
 public:
  Momentum(const OptimizerOptions& options, bool orthogonal, ParameterList parameters, std::vector<Rates> rates,
           std::vector<std::size_t> places)
      : Rule(std::move(parameters), std::move(rates), std::move(places)),
        options_(options),
        orthogonal_(orthogonal),
        buffers_(zeros()) {}

  void step(std::vector<at::Tensor>& gradients, std::int64_t, double factor) override {
    for (std::size_t index = 0; index < parameters_.size(); ++index) {
      const at::Tensor& gradient = gradients[places_[index]];
      if (!gradient.defined()) continue;
      at::Tensor& buffer = buffers_[index];
      buffer.mul_(options_.momentum).add_(gradient);
      const at::Tensor update = options_.nesterov ? gradient.add(buffer, options_.momentum) : buffer;
      const double rate = rates_[index].learning_rate * factor;
      at::Tensor value = parameters_[index]->value.detach();
      value.mul_(1 - rate * rates_[index].weight_decay);
      if (orthogonal_) {
        apply_orthogonal(value, update, parameters_[index]->parts, rate);
      } else {
        value.add_(update, -rate);
      }
    }
  }
  void append_state(NamedTensors& state) override { append(state, "momentum", buffers_); }

 private:
  /// A fused projection is several matrices to Muon: each is orthogonalised by itself.
  static void apply_orthogonal(at::Tensor& value, const at::Tensor& update, const std::vector<RowPart>& parts,
                               double rate) {
    std::int64_t row = 0;
    for (std::size_t index = 0; index < std::max<std::size_t>(parts.size(), 1); ++index) {
      const std::int64_t rows = parts.empty() ? value.size(0) : parts[index].rows;
      const double shape = std::sqrt(std::max(1.0, double(rows) / double(value.size(1))));
      value.narrow(0, row, rows).add_(orthogonalise(update.narrow(0, row, rows)), -rate * shape);
      row += rows;
    }
  }
  OptimizerOptions options_;
  bool orthogonal_;
  std::vector<at::Tensor> buffers_;
};

class RuleList : public Optimizer {
 public:
  explicit RuleList(std::vector<std::unique_ptr<Rule>> rules) : rules_(std::move(rules)) {}
  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    at::NoGradGuard no_grad;
    for (const auto& rule : rules_) rule->step(gradients, step, factor);
  }
  NamedTensors state() override {
    NamedTensors state;
    for (const auto& rule : rules_) rule->append_state(state);
    return state;
  }

 private:
  std::vector<std::unique_ptr<Rule>> rules_;
};

}  // namespace

void ParameterGroupOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("pattern", pattern, "shell wildcards over parameter names, such as lm_head.*");
  visitor.field("learning_rate", learning_rate, "peak rate of the group; null: the optimiser's", at_least(0));
  visitor.field("learning_rate_scale", learning_rate_scale, "the group's rate is multiplied by this", at_least(0));
  visitor.field("weight_decay", weight_decay, "decay of the group; null: the optimiser's for matrices, 0 for vectors",
                at_least(0));
}

void OptimizerOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("type", type, "muon orthogonalises the body's matrices and leaves the rest to adamw",
                {"adamw", "sgd", "muon"});
  visitor.field("learning_rate", learning_rate, "peak learning rate", at_least(0));
  visitor.field("betas", betas, "decay of adamw's two averages", between(0, 1));
  visitor.field("eps", eps, "added to the root of adamw's second average", above(0));
  visitor.field("weight_decay", weight_decay, "decoupled decay of tensors of two dimensions", at_least(0));
  visitor.field("momentum", momentum, "of sgd and muon", between(0, 1));
  visitor.field("nesterov", nesterov, "look-ahead momentum for sgd and muon");
  visitor.field("matrix_learning_rate", matrix_learning_rate, "muon's peak rate for matrices; null: learning_rate",
                at_least(0));
  visitor.list("groups", groups, "parameters with rates of their own; the first that matches counts");
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, const ParameterList& parameters) {
  require(options.betas.size() == 2, "config", "optimizer.betas must be two numbers, got ", options.betas.size());
  const std::vector<Rates> rates = resolve_rates(options, parameters);
  ParameterList lists[2];
  std::vector<Rates> rates_of[2];
  std::vector<std::size_t> places[2];
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    const bool first = options.type == "adamw" || (options.type == "muon" && !is_body_matrix(*parameters[index]));
    lists[!first].push_back(parameters[index]);
    rates_of[!first].push_back(rates[index]);
    places[!first].push_back(index);
  }
  std::vector<std::unique_ptr<Rule>> rules;
  if (!lists[0].empty()) rules.push_back(std::make_unique<AdamW>(options, lists[0], rates_of[0], places[0]));
  if (!lists[1].empty())
    rules.push_back(std::make_unique<Momentum>(options, options.type == "muon", lists[1], rates_of[1], places[1]));
  return std::make_unique<RuleList>(std::move(rules));
}

at::Tensor orthogonalise(const at::Tensor& matrix) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;  // Jordan 2024: steep at zero, bounded near one
  const bool tall = matrix.size(0) > matrix.size(1);
  at::Tensor x = tall ? matrix.t() : matrix;
  x = x / (at::linalg_vector_norm(x) + 1e-7);
  for (int iteration = 0; iteration < 5; ++iteration) {
    const at::Tensor gram = at::mm(x, x.t());
    x = kA * x + at::mm(kB * gram + kC * at::mm(gram, gram), x);
  }
  return tall ? x.t() : x;
}

double gradient_norm(const std::vector<at::Tensor>& gradients) {
  double sum = 0;
  std::vector<at::Tensor> defined;
  for (const at::Tensor& gradient : gradients)
    if (gradient.defined()) defined.push_back(gradient);
  if (defined.empty()) return 0;
  for (const at::Tensor& norm : at::_foreach_norm(defined)) sum += std::pow(norm.item<double>(), 2);
  return std::sqrt(sum);
}

}  // namespace lmhead
