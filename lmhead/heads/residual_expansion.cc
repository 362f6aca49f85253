// The linear head beside a narrow bent path: logits leave W's column space for one that depends on the token.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>

#include <cmath>

#include "lmhead/heads/activation.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/joined_words.h"
#include "lmhead/heads/mapped_head.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct ResidualExpansionOptions : HeadOptions {
  std::int64_t width = 16;
  std::string activation = "gelu";
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("width", width, "k, of the bent features", between(1, kMostHeadSize));
    visitor.field("activation", activation, "phi; with none the logits are one linear map", phi_names());
  }
};

/// z = W h + U phi(B h) as one linear map [W, U] of [h, phi(B h)], one parameter unless W is the embedding. U begins at
/// zero, so that the head begins as the linear one.
class ResidualExpansionHead : public MappedHead {
 public:
  ResidualExpansionHead(const ResidualExpansionOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size),
        width_(options.width),
        phi_(phi_named(options.activation)),
        words_(joined_words(context, width_, "lm_head.up_proj.weight")) {
    const std::int64_t hidden = context.hidden_size;
    own(words_.own());
    down_ = own(context.parameter("lm_head.down_proj.weight", {width_, hidden},
                                  normal_initializer(1 / std::sqrt(double(hidden)))));
  }

  std::optional<LinearMap> linear_map() const override {
    if (!phi_.is_identity()) return std::nullopt;
    at::NoGradGuard no_grad;
    const at::Tensor all = words_.value();
    return LinearMap{all.narrow(1, 0, hidden_size()) + at::mm(all.narrow(1, hidden_size(), width_), down_->value)};
  }
  double flops_per_token(std::int64_t) const override {
    const double hidden = double(hidden_size()), inner = double(width_);
    return 6 * (double(vocab_size()) * (hidden + inner) + inner * hidden);
  }
  double memory_per_token(std::int64_t) const override { return 2 * double(hidden_size()) + 4 * double(width_); }

 private:
  at::Tensor map_features(const HeadInput& input) const override {
    return at::cat({input.hidden, phi_.apply(projection(input.hidden, down_->working, {}))}, 1);
  }
  LinearMap working_map() const override { return {words_.working()}; }

  std::int64_t width_;
  const Phi& phi_;
  JoinedWords words_;
  ParameterPtr down_;
};

}  // namespace

HeadKind residual_expansion_head() {
  return describe_head<ResidualExpansionHead, ResidualExpansionOptions>(
      "residual_expansion", "z = W h + U phi(B h), B: k x D, U: V x k",
      "1 + k / D: 6 (V (D + k) + k D) operations a token",
      "2 D + 4 k numbers a token, and where W is the embedding a copy of V (D + k) weights",
      "ours; without phi it is the linear head with a low-rank term (Hu et al. 2021, arXiv 2106.09685)");
}

}  // namespace lmhead
