#include "lmhead/heads/hidden_gradient_rule.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/heads/gradient_matrix.h"

namespace lmhead {
namespace {

constexpr const char* kMatrixName = "head_gradient.hidden.matrix";
constexpr double kSmallest = 1e-30;  // below every norm that is not zero; keeps 0 / 0 out

at::Tensor row_norms(const at::Tensor& rows) {
  return at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}, /*keepdim=*/true);
}

/// Behind `passed_over` draws.
at::Tensor normal_on(c10::Device device, at::IntArrayRef sizes, RandomStream& stream, double deviation = 1,
                     std::int64_t passed_over = 0) {
  for (std::int64_t index = 0; index < passed_over; ++index) stream.normal();
  at::Tensor tensor = at::empty(sizes, at::kFloat);
  auto* values = tensor.mutable_data_ptr<float>();
  for (std::int64_t index = 0; index < tensor.numel(); ++index) values[index] = float(deviation * stream.normal());
  return on_device(tensor, device);
}

/// The gradient times one D x D matrix, which does not change between refreshes.
class MatrixRule : public HiddenGradientRule {
 public:
  MatrixRule(const HiddenGradientOptions& options, const GradientRuleContext& context)
      : options_(options), matrix_(kMatrixName, context.hidden_size, options.refresh_every, context.device) {}
  std::vector<std::pair<std::string, at::Tensor>> state() const override { return matrix_.state(); }

  at::Tensor apply(const at::Tensor& gradient, const HeadPass& pass) override {
    return at::mm(gradient, matrix(gradient, pass));
  }

 protected:
  const at::Tensor& matrix(const at::Tensor& gradient, const HeadPass& pass) {
    return matrix_.at_pass(pass, [&] { return make_matrix(gradient, pass); });
  }
  const HiddenGradientOptions options_;

 private:
  virtual at::Tensor make_matrix(const at::Tensor& gradient, const HeadPass& pass) const = 0;
  RefreshedMatrix matrix_;
};

class TopSubspace : public MatrixRule {
 public:
  using MatrixRule::MatrixRule;

 private:
  at::Tensor make_matrix(const at::Tensor&, const HeadPass& pass) const override {
    return top_projection(gram(pass.map->weight), *options_.rank);
  }
};

class RandomSubspace : public MatrixRule {
 public:
  using MatrixRule::MatrixRule;

 private:
  at::Tensor make_matrix(const at::Tensor& gradient, const HeadPass& pass) const override {
    RandomStream stream(pass.seed, "head_gradient.random_subspace", std::uint64_t(pass.step));
    const at::Tensor basis = on_device(random_basis(gradient.size(1), *options_.rank, stream), gradient.device());
    return at::mm(basis, basis.t());
  }
};

class Noise : public TopSubspace {
 public:
  using TopSubspace::TopSubspace;
  at::Tensor apply(const at::Tensor& gradient, const HeadPass& pass) override {
    const at::Tensor& projection = matrix(gradient, pass);
    const at::Tensor kept = at::mm(gradient, projection);
    RandomStream stream(pass.seed, "head_gradient.noise." + std::to_string(pass.part), std::uint64_t(pass.step));
    at::Tensor noise = normal_on(gradient.device(), gradient.sizes(), stream, 1, pass.rows_before * gradient.size(1));
    noise = noise - at::mm(noise, projection);
    return kept + noise * (row_norms(gradient - kept) / row_norms(noise).clamp_min(kSmallest));
  }
};

class Whitened : public MatrixRule {
 public:
  using MatrixRule::MatrixRule;

 private:
  at::Tensor make_matrix(const at::Tensor& gradient, const HeadPass& pass) const override {
    return inverse_power(whitening_matrix(options_.matrix, pass, gradient), options_.exponent, options_.damping);
  }
};

class FixedFeedback : public HiddenGradientRule {
 public:
  FixedFeedback(const HiddenGradientOptions&, const GradientRuleContext& context) {
    RandomStream stream(context.seed, "head_gradient.feedback");
    feedback_ = normal_on(context.device, {context.vocab_size, context.hidden_size}, stream, context.initializer_range);
  }
  at::Tensor apply(const at::Tensor& gradient, const HeadPass& pass) override {
    at::Tensor sent = at::empty_like(gradient);
    for_each_logit_block(pass, [&](std::int64_t first, const at::Tensor& logits) {
      const at::Tensor rows = logit_gradient(pass, first, logits).to(at::kFloat);
      sent.narrow(0, first, rows.size(0)).copy_(at::mm(rows, feedback_));
    });
    return sent.div_(pass.tokens_per_gradient);
  }

 private:
  at::Tensor feedback_;
};

class RowNormalized : public HiddenGradientRule {
 public:
  RowNormalized(const HiddenGradientOptions&, const GradientRuleContext&) {}
  at::Tensor apply(const at::Tensor& gradient, const HeadPass& pass) override {
    return gradient / (row_norms(gradient) * pass.tokens_per_gradient).clamp_min(kSmallest).sqrt();
  }
};

/// The options' own way of saying "exact".
class Unchanged : public HiddenGradientRule {
 public:
  at::Tensor apply(const at::Tensor& gradient, const HeadPass&) override { return gradient; }
};

template <class Rule>
std::unique_ptr<HiddenGradientRule> make(const HiddenGradientOptions& options, const GradientRuleContext& context) {
  return std::make_unique<Rule>(options, context);
}

struct RuleKind {
  const char* name;
  bool has_rank, needs_linear_map;
  std::unique_ptr<HiddenGradientRule> (*make)(const HiddenGradientOptions&, const GradientRuleContext&);
};
constexpr RuleKind kRules[] = {
    {"top_subspace", true, true, make<TopSubspace>},
    {"random_subspace", true, false, make<RandomSubspace>},
    {"noise", true, true, make<Noise>},
    {"fixed_feedback", false, true, make<FixedFeedback>},
    {"whitened", false, false, make<Whitened>},
    {"row_normalized", false, false, make<RowNormalized>},
};

}  // namespace

std::unique_ptr<HiddenGradientRule> make_hidden_gradient_rule(const HiddenGradientOptions& options,
                                                              const GradientRuleContext& context) {
  constexpr const char* kWho = "head_gradient";
  const auto check_rank = [&](bool has_rank) {
    require(options.rank.has_value() == has_rank, kWho, "head_gradient.hidden.rank must be ",
            has_rank ? "a number" : "null", " for rule ", options.rule, ", got ", has_rank ? "null" : "a number");
  };
  if (options.rule == "exact") check_rank(false);
  for (const RuleKind& rule : kRules) {
    if (options.rule != rule.name) continue;
    check_rank(rule.has_rank);
    const bool whitens = options.rule == std::string("whitened");
    require(context.has_linear_map || !(rule.needs_linear_map || (whitens && matrix_needs_linear_map(options.matrix))),
            kWho, "head_gradient.hidden.rule ", options.rule, whitens ? " with matrix " + options.matrix : "",
            " must have a head that is one linear map, got one that is not");
    if (options.is_exact(context.hidden_size)) return std::make_unique<Unchanged>();
    return rule.make(options, context);
  }
  return nullptr;
}

}  // namespace lmhead
