#include "lmhead/kernels/gradient_of_gradient.h"

#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

struct RefuseFunction : torch::autograd::Function<RefuseFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& gradient,
                            const at::Tensor& origin, const std::string& who) {
    context->saved_data["who"] = who;
    return gradient.view_as(gradient);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list&) {
    fail(context->saved_data["who"].toStringRef(),
         "can be differentiated once; its plain composition can be differentiated again");
  }
};

}  // namespace

at::Tensor refuse_gradient_of_gradient(const char* who, const at::Tensor& gradient,
                                       const std::vector<at::Tensor>& origins) {
  if (!at::GradMode::is_enabled()) return gradient;
  for (const at::Tensor& origin : origins)
    if (origin.defined() && origin.requires_grad()) return RefuseFunction::apply(gradient, origin, std::string(who));
  return gradient;
}

}  // namespace lmhead
