#include "lmhead/train/optimizer_options.h"

#include <algorithm>

namespace lmhead {
namespace {

const std::vector<std::string>& update_types() {
  static const std::vector<std::string> types = {"adamw", "sgd", "muon", "row_normalized", "sign"};
  return types;
}

}  // namespace

UpdateOptions UpdateOptions::of_type(const std::string& type) {
  UpdateOptions options;
  options.type = type;
  // As in the code beside arXiv 2502.07529, whose averages forget a tenth a step.
  if (type == "row_normalized" || type == "sign") {
    options.momentum = 0.9;
    options.nesterov = false;
  }
  return options;
}

void UpdateOptions::visit_own_fields(FieldVisitor& visitor) {
  if (type == ParameterGroupOptions::kInherit) return;
  if (type == "adamw") {
    visitor.field("betas", betas, "decay of the two averages", between(0, 1));
    visitor.field("eps", eps, "added to the root of the second average", above(0));
    visitor.field("amsgrad", amsgrad, "divide by the root of the largest second average so far");
    visitor.field("coupled", coupled, "one second average for all rows of a matrix, their mean (Coupled Adam)");
  } else {
    visitor.field("momentum", momentum, "decay of the sum of gradients", between(0, 1));
    visitor.field("nesterov", nesterov, "look-ahead momentum");
  }
}

void ParameterGroupOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("pattern", pattern, "shell wildcards over parameter names, such as lm_head.*");
  visitor.field("learning_rate", learning_rate, "peak rate of the group; null: the optimiser's", at_least(0));
  visitor.field("learning_rate_scale", learning_rate_scale, "the group's rate is multiplied by this", at_least(0));
  visitor.field(
      "rare_from", rare_from,
      "rank by count in the training data from which words are rare; null: none is. For matrices with a row a "
      "word",
      at_least(1));
  visitor.field("rare_learning_rate_scale", rare_learning_rate_scale,
                "the rates of rare words' rows are multiplied by this too", at_least(0));
  visitor.field("weight_decay", weight_decay, "decay of the group; null: the optimiser's for matrices, 0 for vectors",
                at_least(0));
  std::string type = update.type;
  std::vector<std::string> types = update_types();
  types.insert(types.begin(), kInherit);
  visitor.field("type", type,
                "how the group is updated, with keys of its own; inherit: as the optimiser would. muon orthogonalises, "
                "row_normalized gives each row of the update length 1, sign takes signs over the row's length; those "
                "three are for matrices",
                types);
  if (type != update.type) update = UpdateOptions::of_type(type);
  update.visit_own_fields(visitor);
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
  visitor.list("groups", groups, "parameters with rates or an update of their own; the first that matches counts");
}

UpdateOptions OptimizerOptions::update(const std::string& type) const {
  UpdateOptions options;
  options.type = type;
  options.betas = betas;
  options.eps = eps;
  options.momentum = momentum;
  options.nesterov = nesterov;
  return options;
}

std::vector<UpdateKey> describe_update_keys() {
  std::vector<UpdateKey> keys;
  const std::size_t common = describe_options<ParameterGroupOptions>().size();
  for (const std::string& type : update_types()) {
    ParameterGroupOptions group;
    group.update = UpdateOptions::of_type(type);
    const std::vector<FieldDescription> fields = detail::describe(detail::AnyOptions(group));
    for (std::size_t index = common; index < fields.size(); ++index) keys.push_back({type, fields[index]});
  }
  return keys;
}

}  // namespace lmhead
