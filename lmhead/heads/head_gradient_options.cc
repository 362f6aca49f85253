#include "lmhead/heads/head_gradient_options.h"

namespace lmhead {

void WhiteningOptions::visit_whitening_fields(FieldVisitor& visitor) {
  visitor.field("matrix", matrix, "A of whitened",
                {"head", "centered_head", "fisher", "gradient_covariance", "feature_covariance", "random"});
  visitor.field("exponent", exponent, "a of whitened's (A + lambda I)^-a; 0: exact", at_least(0));
  visitor.field("damping", damping, "lambda of whitened as a share of A's mean eigenvalue; 0: pseudo-inverse",
                at_least(0));
  visitor.field("refresh_every", refresh_every,
                "steps between recomputations of the basis or matrix; null: computed at the first step and kept",
                at_least(1));
}

bool HiddenGradientOptions::is_exact(std::int64_t hidden_size) const {
  return rule == "exact" || (rank && *rank >= hidden_size) || (rule == "whitened" && !changes_something());
}

void HiddenGradientOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("rule", rule, "what the backbone receives in place of dL/dH",
                {"exact", "top_subspace", "random_subspace", "noise", "fixed_feedback", "whitened", "row_normalized"});
  visitor.field("rank", rank, "k of top_subspace, random_subspace and noise; hidden_size or more: exact", at_least(1));
  visit_whitening_fields(visitor);
  visitor.field("match_rms", match_rms, "one factor a micro-batch gives the result the root mean square of dL/dH");
  visitor.field("at", at, "whose gradient is changed", {"features", "last_block_input"});
}

void WeightGradientOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("rule", rule, "what the head's matrix receives in place of dL/dW",
                {"exact", "parallel", "perpendicular", "whitened"});
  visit_whitening_fields(visitor);
  visitor.field("match_rms", match_rms, "one factor a step gives the result the Frobenius norm of dL/dW");
}

void HeadPenaltyOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("orthogonality", orthogonality, "times ||W^T W D / tr(W^T W) - I||^2 / D", at_least(0));
  visitor.field("alignment", alignment, "times 1 - step_cosine of every micro-batch", at_least(0));
}

void HeadGradientOptions::visit_fields(FieldVisitor& visitor) {
  visitor.group("hidden", hidden, "of the features: what goes on into the backbone");
  visitor.group("weight", weight, "of the head's matrix");
  visitor.group("penalties", penalties, "gradients that only the head's matrix receives, beside the loss's");
}

bool HeadGradientOptions::is_plain_backpropagation() const {
  return hidden.rule == "exact" && weight.rule == "exact" && penalties.orthogonality == 0 && penalties.alignment == 0;
}

}  // namespace lmhead
