// The linear head under another output function: p is proportional to e^z sigma(z) in place of e^z.
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/mapped_head.h"

namespace lmhead {
namespace {

struct SigsoftmaxOptions : HeadOptions {
  bool bias = false;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("bias", bias,
                  "adds a trained bias of V numbers to W h: unlike softmax, z is not free up to a constant");
  }
};

/// log p = z' - lse(z'), z' = 2 z - softplus(z). The map is applied to a tile at a time, see LogitTransform.
class SigsoftmaxHead : public MappedHead {
 public:
  SigsoftmaxHead(const SigsoftmaxOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size) {
    weight_ = own_words(context, context.initializer_range);
    if (options.bias)
      bias_ =
          own(context.parameter("lm_head.bias", {context.vocab_size}, constant_initializer(0), ParameterKind::kBias));
  }

  std::optional<LinearMap> linear_map() const override {
    return map_of(weight_->value.detach(), bias_ ? bias_->value.detach() : at::Tensor());
  }
  ParameterPtr own_matrix() const override { return if_own(weight_); }
  double flops_per_token(std::int64_t) const override { return 6 * double(vocab_size()) * double(hidden_size()); }

 private:
  static LinearMap map_of(const at::Tensor& weight, const at::Tensor& bias) {
    LinearMap map{weight, bias};
    map.transform.sigsoftmax = true;
    return map;
  }
  at::Tensor map_features(const HeadInput& input) const override { return input.hidden; }
  LinearMap working_map() const override { return map_of(weight_->working, bias_ ? bias_->working : at::Tensor()); }

  ParameterPtr weight_, bias_;
};

}  // namespace

HeadKind sigsoftmax_head() {
  return describe_head<SigsoftmaxHead, SigsoftmaxOptions>(
      "sigsoftmax", "z' = 2 z - softplus(z), z = W h + b: p is proportional to e^z sigma(z), W: V x D",
      "1: 6 V D operations a token, and an exponential and two divisions a logit", "D numbers a token",
      "Kanai et al. 2018, arXiv 1805.10829");
}

}  // namespace lmhead
