// The logits of single words: a gather of rows.
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <torch/library.h>

#include <string>

#include "lmhead/base/error.h"
#include "lmhead/kernels/autocast_type.h"
#include "lmhead/kernels/find_operation.h"
#include "lmhead/kernels/linear_logsumexp.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/readable_tensor.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "target_logits";

void check(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets, const at::Tensor& temperature) {
  if (!is_readable(targets)) return;  // sizes that are traced may be unknown
  require(hidden.dim() == 2 && at::isFloatingType(hidden.scalar_type()), kWho, "hidden must be a floating [N, D], got ",
          hidden.scalar_type(), " ", hidden.sizes());
  require(map.weight.dim() == 2 && map.weight.size(1) == hidden.size(1), kWho, "weight must be [V, ", hidden.size(1),
          "], got ", map.weight.sizes());
  require((targets.dim() == 1 || targets.dim() == 2) && targets.size(0) == hidden.size(0) &&
              targets.scalar_type() == at::kLong,
          kWho, "targets must be int64 [", hidden.size(0), "] or [", hidden.size(0), ", K], got ",
          targets.scalar_type(), " ", targets.sizes());
  require(!map.bias.defined() || (map.bias.dim() == 1 && map.bias.size(0) == map.weight.size(0)), kWho,
          "bias must be [", map.weight.size(0), "], got ", map.bias.sizes());
  require(!temperature.defined() || (temperature.dim() == 1 && temperature.size(0) == hidden.size(0)), kWho,
          "temperature must be [", hidden.size(0), "], got ", temperature.sizes());
  const at::Tensor ids = targets.contiguous();
  for (std::int64_t index = 0; index < ids.numel(); ++index) {
    const std::int64_t id = ids.const_data_ptr<std::int64_t>()[index];
    require(id >= 0 && id < map.weight.size(0), kWho, "targets must lie in [0, ", map.weight.size(0), "), got ", id);
  }
}

at::Tensor kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                  const OptionalTensor& bias, const OptionalTensor& temperature, double logit_scale,
                  double logit_softcap, at::ArrayRef<double> sigmoid_cap, bool sigsoftmax) {
  const LinearMap map{weight, value_or_undefined(bias),
                      transform_of(logit_scale, logit_softcap, sigmoid_cap, sigsoftmax, kWho)};
  check(hidden, map, targets, value_or_undefined(temperature));
  const at::ScalarType type = loss_type(hidden.scalar_type());
  const auto beside = [&](const at::Tensor& of_rows) { return targets.dim() == 2 ? of_rows.unsqueeze(1) : of_rows; };
  // Rounded as a tile's products are, so that no logit lies above the logsumexp that it is part of.
  at::Tensor product = (beside(hidden).to(type) * at::embedding(weight, targets).to(type)).sum(-1);
  product = product.to(hidden.scalar_type()).to(type);
  if (map.bias.defined()) product = product + at::embedding(map.bias.to(type).unsqueeze(1), targets).squeeze(-1);
  const at::Tensor logits = logits_of_product(product, map.transform);
  return temperature ? logits / beside(temperature->to(type)) : logits;
}

at::Tensor call(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                const at::Tensor& temperature) {
  static const auto operation = find_operation("lmhead::target_logits", &kernel);
  const LogitTransform& transform = map.transform;
  return operation.call(hidden, map.weight, targets, optional_of(map.bias), optional_of(temperature), transform.scale,
                        transform.softcap, sigmoid_cap_of(transform), transform.sigsoftmax);
}

at::Tensor autocast_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                           const OptionalTensor& bias, const OptionalTensor& temperature, double logit_scale,
                           double logit_softcap, at::ArrayRef<double> sigmoid_cap, bool sigsoftmax) {
  const AutocastType cast(hidden);
  return kernel(cast(hidden), cast(weight), targets, bias, temperature, logit_scale, logit_softcap, sigmoid_cap,
                sigsoftmax);
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  const std::string schema =
      "target_logits(Tensor hidden, Tensor weight, Tensor targets, *, Tensor? bias=None, Tensor? temperature=None, " +
      std::string(kTransformSchema) + ") -> Tensor";
  library.def(schema.c_str());
}
TORCH_LIBRARY_IMPL(lmhead, CompositeImplicitAutograd, library) { library.impl("target_logits", kernel); }
TORCH_LIBRARY_IMPL(lmhead, AutocastCPU, library) { library.impl("target_logits", autocast_kernel); }
TORCH_LIBRARY_IMPL(lmhead, AutocastCUDA, library) { library.impl("target_logits", autocast_kernel); }

}  // namespace

at::Tensor target_logits(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                         const at::Tensor& temperature) {
  return call(hidden, map, targets, temperature);
}

}  // namespace lmhead
