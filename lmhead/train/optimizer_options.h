// What of an optimiser a configuration chooses, for all parameters and for groups of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/options.h"

namespace lmhead {

/// One way of updating a parameter, with the numbers that are its own. Which of them a configuration may name depends
/// on the type.
struct UpdateOptions {
  std::string type = "adamw";
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  bool amsgrad = false;
  bool coupled = false;
  double momentum = 0.95;
  bool nesterov = true;

  /// The defaults of that type.
  static UpdateOptions of_type(const std::string& type);
  void visit_own_fields(FieldVisitor& visitor);
};

/// Parameters whose name matches `pattern` (shell wildcards); what is null is taken from the optimiser.
struct ParameterGroupOptions {
  std::string pattern;
  std::optional<double> learning_rate, weight_decay;
  double learning_rate_scale = 1;  // so that the ratio of two rates can be searched while the base rate moves
  std::optional<std::int64_t> rare_from;
  double rare_learning_rate_scale = 1;
  UpdateOptions update = UpdateOptions::of_type(kInherit);

  static constexpr const char* kInherit = "inherit";
  bool chooses_update() const { return update.type != kInherit; }
  void visit_fields(FieldVisitor& visitor);
};

struct OptimizerOptions {
  std::string type = "adamw";
  double learning_rate = 3e-3;
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  double momentum = 0.95;
  bool nesterov = true;
  std::optional<double> matrix_learning_rate;
  std::vector<ParameterGroupOptions> groups;
  void visit_fields(FieldVisitor& visitor);
  /// These numbers as those of one way of updating.
  UpdateOptions update(const std::string& type) const;
};

/// A key that only groups of one `type` have.
struct UpdateKey {
  std::string type;
  FieldDescription field;
};
/// Every such key, type after type.
std::vector<UpdateKey> describe_update_keys();

}  // namespace lmhead
