#include "lmhead/kernels/operation_arguments.h"

#include <ATen/ops/empty.h>

#include "lmhead/base/error.h"

namespace lmhead {

at::Tensor or_nothing(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::empty({0}, like.options());
}

at::Tensor like_or_nothing(bool wanted, const at::Tensor& like) {
  return wanted ? at::empty_symint(like.sym_sizes(), like.options()) : at::empty({0}, like.options());
}

TransformNumbers numbers_of(const LogitTransform& transform) {
  const SigmoidCap& cap = transform.sigmoid_cap;
  return {transform.scale, transform.softcap, cap.height, cap.shift, cap.width, transform.sigsoftmax ? 1.0 : 0.0};
}

LogitTransform transform_of(at::ArrayRef<double> numbers) {
  return {numbers[0], numbers[1], {numbers[2], numbers[3], numbers[4]}, numbers[5] != 0};
}

LogitTransform transform_of(double logit_scale, double logit_softcap, at::ArrayRef<double> sigmoid_cap, bool sigsoftmax,
                            const char* who) {
  require(sigmoid_cap.empty() || sigmoid_cap.size() == 3, who, "sigmoid_cap must hold height, shift and width, got ",
          sigmoid_cap.size(), " numbers");
  LogitTransform transform{logit_scale, logit_softcap, {}, sigsoftmax};
  if (!sigmoid_cap.empty()) {
    require(sigmoid_cap[0] > 0, who, "the height of sigmoid_cap must be positive, got ", sigmoid_cap[0]);
    transform.sigmoid_cap = {sigmoid_cap[0], sigmoid_cap[1], sigmoid_cap[2]};
  }
  check_logit_transform(transform, who);
  return transform;
}

std::vector<double> sigmoid_cap_of(const LogitTransform& transform) {
  const SigmoidCap& cap = transform.sigmoid_cap;
  return cap.height > 0 ? std::vector<double>{cap.height, cap.shift, cap.width} : std::vector<double>{};
}

}  // namespace lmhead
