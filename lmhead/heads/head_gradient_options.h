// What is done to the gradients that leave the head. Every default is plain backpropagation.
#pragma once

#include <optional>
#include <string>

#include "lmhead/base/options.h"

namespace lmhead {

/// The family (A + lambda I)^-exponent, lambda = damping times A's mean eigenvalue.
struct WhiteningOptions {
  std::string matrix = "head";
  double exponent = 0.5;
  double damping = 0.01;
  std::optional<std::int64_t> refresh_every = 1;

  bool changes_something() const { return exponent != 0; }

 protected:
  void visit_whitening_fields(FieldVisitor& visitor);
};

/// What the backbone receives in place of g = dL/dH.
struct HiddenGradientOptions : WhiteningOptions {
  std::string rule = "exact";
  std::optional<std::int64_t> rank;
  bool match_rms = true;
  std::string at = "features";
  /// The options' own ways of saying "exact" for features of that width.
  bool is_exact(std::int64_t hidden_size) const;
  void visit_fields(FieldVisitor& visitor);
};

/// What the head's matrix receives in place of dL/dW.
struct WeightGradientOptions : WhiteningOptions {
  std::string rule = "exact";
  bool match_rms = true;
  void visit_fields(FieldVisitor& visitor);
};

/// Factors of what is added to the objective of the head's matrix alone.
struct HeadPenaltyOptions {
  double orthogonality = 0;
  double alignment = 0;
  void visit_fields(FieldVisitor& visitor);
};

struct HeadGradientOptions {
  HiddenGradientOptions hidden;
  WeightGradientOptions weight;
  HeadPenaltyOptions penalties;
  void visit_fields(FieldVisitor& visitor);
  bool is_plain_backpropagation() const;
};

}  // namespace lmhead
