#include "lmhead/models/recomputed_block.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

using torch::autograd::variable_list;

struct KeptBlock : torch::CustomClassHolder {
  explicit KeptBlock(DecoderBlock given) : block(std::move(given)) {}
  DecoderBlock block;
};

struct RecomputedFunction : torch::autograd::Function<RecomputedFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const DecoderBlock& block) {
    context->save_for_backward({input});
    context->saved_data["block"] = c10::IValue::make_capsule(c10::make_intrusive<KeptBlock>(block));
    return block(input);
  }
  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    require(!at::GradMode::is_enabled(), "decoder",
            "create_graph must be false where training.checkpoint_activations is true");
    if (!upstreams[0].defined()) return variable_list(2);
    const auto kept = c10::static_intrusive_pointer_cast<KeptBlock>(context->saved_data["block"].toCapsule());
    const at::Tensor input = context->get_saved_variables()[0].detach().requires_grad_();
    const at::AutoGradMode with_history(true);
    torch::autograd::backward({kept->block(input)}, {upstreams[0]});
    return {input.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor recomputed(const DecoderBlock& block, const at::Tensor& input) {
  return at::GradMode::is_enabled() && input.requires_grad() ? RecomputedFunction::apply(input, block) : block(input);
}

}  // namespace lmhead
