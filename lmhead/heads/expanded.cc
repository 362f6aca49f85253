#include "lmhead/heads/expanded.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/silu.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

struct Phi {
  const char* name;
  double second_moment;  // E[phi(x)^2] of a standard normal x
  at::Tensor (*apply)(const at::Tensor&);
};
constexpr Phi kPhis[] = {
    {"none", 1, [](const at::Tensor& x) { return x; }},
    {"gelu", 0.42522148, [](const at::Tensor& x) { return at::gelu(x); }},  // 1/3 + 1 / (2 pi sqrt 3)
    {"silu", 0.35577552, [](const at::Tensor& x) { return at::silu(x); }},  // by quadrature
};

const Phi& phi_named(const std::string& name) {
  for (const Phi& phi : kPhis)
    if (name == phi.name) return phi;
  fail("head", "head.activation must be one of none, gelu, silu, got ", name);
}

class ExpandedHead : public LmHead {
 public:
  ExpandedHead(const ExpandedHeadOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size), phi_(phi_named(options.activation)) {
    require(!context.tied_embedding, "head",
            "expanded must have model.tie_word_embeddings = false, got true: W is wider than the embedding");
    // As with low_rank: initial logits are distributed as the dense head's are, whatever the width.
    const double hidden = double(context.hidden_size), width = double(options.width);
    up_ = own(context.factory.make("lm_head.up_proj.weight", ParameterKind::kHead, {options.width, context.hidden_size},
                                   normal_initializer(1 / std::sqrt(hidden))));
    output_ = own(context.factory.make(
        "lm_head.output_proj.weight", ParameterKind::kHead, {context.vocab_size, options.width},
        normal_initializer(context.initializer_range * std::sqrt(hidden / (width * phi_.second_moment)))));
  }

  std::optional<LinearMap> linear_map() const override {
    if (phi_.second_moment != 1) return std::nullopt;
    at::NoGradGuard no_grad;
    return LinearMap{at::mm(output_->value, up_->value), {}, 1, 0};
  }

 private:
  at::Tensor expand(const HeadInput& input) const { return phi_.apply(at::linear(input.hidden, up_->working)); }
  at::Tensor compute_logits(const HeadInput& input) const override {
    return at::linear(expand(input), output_->working);
  }
  at::Tensor compute_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                          TokenStatistics*) const override {
    return linear_cross_entropy(expand(input), LinearMap{output_->working, {}, 1, 0}, targets,
                                {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss});
  }

  const Phi& phi_;
  ParameterPtr up_, output_;
};

}  // namespace

void ExpandedHeadOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("width", width, "of the features that W sees", at_least(1));
  visitor.field("activation", activation, "phi; with none the logits are one linear map", {"none", "gelu", "silu"});
}

std::unique_ptr<LmHead> make_expanded_head(const HeadOptions& options, const HeadContext& context) {
  return std::make_unique<ExpandedHead>(dynamic_cast<const ExpandedHeadOptions&>(options), context);
}

}  // namespace lmhead
