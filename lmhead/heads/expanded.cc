// A head whose width differs from the body's.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/activation.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/mapped_head.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

/// The Jacobian of a token's logits by its features keeps rank D at most whatever the width; with an activation
/// tokens do not share one subspace.
struct ExpandedHeadOptions : HeadOptions {
  std::int64_t width = 512;
  std::string activation = "none";
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("width", width, "of the features that W sees", between(1, kMostHeadSize));
    visitor.field("activation", activation, "phi; with none the logits are one linear map", phi_names());
  }
};

class ExpandedHead : public MappedHead {
 public:
  ExpandedHead(const ExpandedHeadOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size), phi_(phi_named(options.activation)) {
    require(!context.tied_embedding, "head",
            "expanded must have model.tie_word_embeddings = false, got true: W is wider than the embedding");
    // As with low_rank: initial logits are distributed as the dense head's are, whatever the width.
    const double hidden = double(context.hidden_size), width = double(options.width);
    up_ = own(context.parameter("lm_head.up_proj.weight", {options.width, context.hidden_size},
                                normal_initializer(1 / std::sqrt(hidden))));
    output_ = own(context.parameter(
        "lm_head.output_proj.weight", {context.vocab_size, options.width},
        normal_initializer(context.initializer_range * std::sqrt(hidden / (width * phi_.second_moment)))));
  }

  std::optional<LinearMap> linear_map() const override {
    if (!phi_.is_identity()) return std::nullopt;
    at::NoGradGuard no_grad;
    return LinearMap{at::mm(output_->value, up_->value)};
  }

  double memory_per_token(std::int64_t) const override {
    return (phi_.is_identity() ? 2 : 3) * double(up_->value.size(0));
  }

 private:
  at::Tensor map_features(const HeadInput& input) const override {
    return phi_.apply(projection(input.hidden, up_->working, {}));
  }
  LinearMap working_map() const override { return {output_->working}; }
  TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const override {
    return LmHead::compute_token_scores(input, targets);  // by other products, which round otherwise
  }

  const Phi& phi_;
  ParameterPtr up_, output_;
};

}  // namespace

HeadKind expanded_head() {
  return describe_head<ExpandedHead, ExpandedHeadOptions>(
      "expanded", "z = W phi(E h), E: width x D, W: V x width", "width / D: 6 width (V + D) operations a token",
      "2 width numbers a token, 3 with an activation", "the two-layer head of BERT, without its norm");
}

}  // namespace lmhead
