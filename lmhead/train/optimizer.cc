#include "lmhead/train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <fnmatch.h>

#include <cmath>
#include <map>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

using MakeRule = std::unique_ptr<UpdateRule> (*)(const UpdateOptions&, RuleMembers);

struct RuleKind {
  MakeRule make;
  bool of_matrices;  // needs rows and columns
};

RuleKind rule_kind(const UpdateOptions& options) {
  if (options.type == "adamw") return options.coupled ? RuleKind{make_coupled_adam, true} : RuleKind{make_adamw, false};
  if (options.type == "sgd") return {make_sgd, false};
  if (options.type == "muon") return {make_muon, true};
  if (options.type == "row_normalized") return {make_row_normalized, true};
  require(options.type == "sign", "config", "an update must have a known type, got \"", options.type, '"');
  return {make_sign, true};
}

void check(const UpdateOptions& options, const std::string& where) {
  require(options.betas.size() == 2, "config", where, ".betas must be two numbers, got ", options.betas.size());
  require(!(options.amsgrad && options.coupled), "config", where, ".amsgrad must be off with coupled, got both");
}

void require_matrices(const UpdateOptions& options, const RuleMembers& members, const std::string& where) {
  if (!rule_kind(options).of_matrices) return;
  for (const ParameterPtr& parameter : members.parameters)
    require(parameter->value.dim() == 2, "config", where, ".type ", options.type,
            options.coupled ? " with coupled" : "", " must be for matrices alone, got ", parameter->name, ' ',
            parameter->value.sizes());
}

class RuleList : public Optimizer {
 public:
  explicit RuleList(std::vector<std::unique_ptr<UpdateRule>> rules) : rules_(std::move(rules)) {}
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
  std::vector<std::unique_ptr<UpdateRule>> rules_;
};

}  // namespace

std::vector<std::optional<std::size_t>> find_groups(const OptimizerOptions& options, const ParameterList& parameters) {
  std::vector<std::optional<std::size_t>> found;
  std::vector<bool> matched(options.groups.size(), false);
  for (const ParameterPtr& parameter : parameters) {
    std::optional<std::size_t> group;
    for (std::size_t index = 0; index < options.groups.size() && !group; ++index)
      if (::fnmatch(options.groups[index].pattern.c_str(), parameter->name.c_str(), 0) == 0) group = index;
    if (group) matched[*group] = true;
    found.push_back(group);
  }
  for (std::size_t index = 0; index < matched.size(); ++index)
    require(matched[index], "config", "optimizer.groups.", index,
            ".pattern must match a parameter that no earlier group took, got \"", options.groups[index].pattern, '"');
  return found;
}

std::vector<StoredRows> Optimizer::stored_state() {
  std::vector<StoredRows> all;
  for (const auto& [name, tensor] : state()) all.push_back({name, tensor, tensor.sizes().vec()});
  return all;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, const ParameterList& parameters) {
  check(options.update(options.type), "optimizer");
  const auto groups = find_groups(options, parameters);
  RuleMembers rest, body;                     // body: what muon takes where no group says otherwise
  std::map<std::size_t, RuleMembers> chosen;  // by group
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    if (parameters[index]->kind == ParameterKind::kConstant) continue;
    const Parameter& parameter = *parameters[index];
    const ParameterGroupOptions* group = groups[index] ? &options.groups[*groups[index]] : nullptr;
    const bool chooses = group && group->chooses_update();
    const bool is_body = !chooses && options.type == "muon" && parameter.kind == ParameterKind::kMatrix;
    Rates rates{is_body ? options.matrix_learning_rate.value_or(options.learning_rate) : options.learning_rate,
                parameter.value.dim() >= 2 ? options.weight_decay : 0};
    if (group) {
      rates.learning_rate = group->learning_rate.value_or(rates.learning_rate) * group->learning_rate_scale;
      rates.weight_decay = group->weight_decay.value_or(rates.weight_decay);
    }
    RuleMembers& members = chooses ? chosen[*groups[index]] : is_body ? body : rest;
    members.parameters.push_back(parameters[index]);
    members.rates.push_back(rates);
    members.places.push_back(index);
  }

  std::vector<std::unique_ptr<UpdateRule>> rules;
  const auto add = [&](const UpdateOptions& update, RuleMembers members) {
    if (!members.parameters.empty()) rules.push_back(rule_kind(update).make(update, std::move(members)));
  };
  add(options.update(options.type == "sgd" ? "sgd" : "adamw"), std::move(rest));
  add(options.update("muon"), std::move(body));
  for (auto& [index, members] : chosen) {
    const UpdateOptions& update = options.groups[index].update;
    const std::string where = "optimizer.groups." + std::to_string(index);
    check(update, where);
    require_matrices(update, members, where);
    add(update, std::move(members));
  }
  return std::make_unique<RuleList>(std::move(rules));
}

std::vector<bool> need_all_rows(const OptimizerOptions& options, const ParameterList& parameters) {
  const auto groups = find_groups(options, parameters);
  std::vector<bool> need;
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    const ParameterGroupOptions* group = groups[index] ? &options.groups[*groups[index]] : nullptr;
    const bool chooses = group && group->chooses_update();
    need.push_back(chooses ? group->update.type == "muon" || group->update.coupled
                           : options.type == "muon" && parameters[index]->kind == ParameterKind::kMatrix);
  }
  return need;
}

std::vector<at::Tensor> gradient_norms(const std::vector<at::Tensor>& gradients) {
  std::vector<at::Tensor> defined;
  for (const at::Tensor& gradient : gradients)
    if (gradient.defined()) defined.push_back(gradient);
  return defined.empty() ? defined : at::_foreach_norm(defined);
}

double euclidean_norm(const std::vector<double>& norms) {
  double sum = 0;
  for (const double norm : norms) sum += std::pow(norm, 2);
  return std::sqrt(sum);
}

double gradient_norm(const std::vector<at::Tensor>& gradients) {
  return euclidean_norm(read_numbers(gradient_norms(gradients)));
}

}  // namespace lmhead
