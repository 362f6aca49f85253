#include "lmhead/heads/head_gradient_cost.h"

#include <string>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "head_gradient";

double cube(double size) { return size * size * size; }

/// Orthonormal columns of a normal [size, rank]: Householder's factors, and Q from them.
double basis_flops(double size, double rank) { return 4 * size * rank * rank - 4 * cube(rank) / 3; }

/// (A + lambda I)^-a from A: eigenvectors, and one product.
double power_flops(double size) { return 11 * cube(size); }

class StepCost {
 public:
  explicit StepCost(const HeadStepShape& shape)
      : size_(double(shape.hidden_size)),
        vocab_(double(shape.vocab_size)),
        tokens_(double(shape.tokens)),
        parts_(double(shape.micro_batches)) {}

  double hidden(const HiddenGradientOptions& options) const {
    const std::string& rule = options.rule;
    const double rank = double(options.rank.value_or(0));
    if (options.is_exact(std::int64_t(size_)) || rule == "row_normalized") return 0;
    if (rule == "fixed_feedback") return 2 * logits();
    const double applied = with_features(tokens_), projection = 2 * size_ * size_ * rank;
    if (rule == "top_subspace" || rule == "noise")
      return (rule == "noise" ? 2 : 1) * applied + a_step(options, with_head() + 9 * cube(size_) + projection);
    if (rule == "random_subspace") return applied + a_step(options, basis_flops(size_, rank) + projection);
    require(rule == "whitened", kWho, "the cost of every rule must be known, got ", rule);
    return applied + whitening(options);
  }

  double weight(const WeightGradientOptions& options) const {
    if (options.rule == "exact") return 0;
    if (options.rule == "parallel" || options.rule == "perpendicular")
      return 3 * with_head() + power_flops(size_) + 2 * cube(size_);
    require(options.rule == "whitened", kWho, "the cost of every rule must be known, got ", options.rule);
    return options.changes_something() ? with_head() + whitening(options) : 0;
  }

  double penalties(const HeadPenaltyOptions& options) const {
    double flops = 0;
    if (options.orthogonality > 0) flops += 2 * with_head();
    if (options.alignment > 0) flops += 3 * logits() + with_features(tokens_) + parts_ * 3 * with_head();
    return flops;
  }

 private:
  double logits() const { return 2 * tokens_ * vocab_ * size_; }
  /// W^T W, or the product of a V x D with a D x D matrix.
  double with_head() const { return with_features(vocab_); }
  /// The same of so many rows of features.
  double with_features(double rows) const { return 2 * rows * size_ * size_; }
  static double a_step(const WhiteningOptions& options, double refresh) {
    return options.refresh_every ? refresh / double(*options.refresh_every) : 0;
  }

  double whitening(const WhiteningOptions& options) const {
    return a_step(options, matrix(options.matrix) + power_flops(size_));
  }
  double matrix(const std::string& name) const {
    const double covariance = with_features(tokens_ / parts_);
    if (name == "head" || name == "centered_head") return with_head();
    if (name == "fisher") return with_head() + logits() / parts_ + covariance;
    if (name == "gradient_covariance" || name == "feature_covariance") return covariance;
    require(name == "random", kWho, "the cost of every matrix must be known, got ", name);
    return covariance + 4 * cube(size_) / 3 + basis_flops(size_, size_) + 2 * cube(size_);
  }

  double size_, vocab_, tokens_, parts_;
};

}  // namespace

double head_gradient_flops(const HeadGradientOptions& options, const HeadStepShape& shape) {
  const StepCost cost(shape);
  return cost.hidden(options.hidden) + cost.weight(options.weight) + cost.penalties(options.penalties);
}

}  // namespace lmhead
