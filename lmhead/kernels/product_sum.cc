#include "lmhead/kernels/product_sum.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <optional>

namespace lmhead {
namespace {

using AddmmOut = at::Tensor&(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::ScalarType, const at::Scalar&,
                             const at::Scalar&, at::Tensor&);

/// addmm with 16-bit factors and a float32 sum, where this ATen has it for the device (CUDA's from torch 2.8 on).
std::optional<c10::TypedOperatorHandle<AddmmOut>> wide_addmm(const at::Tensor& factor) {
  static const auto operation = c10::Dispatcher::singleton().findSchema({"aten::addmm", "dtype_out"});
  const c10::DispatchKey key = factor.options().computeDispatchKey();
  if (!operation || !operation->hasKernelForDispatchKey(key)) return std::nullopt;
  return operation->typed<AddmmOut>();
}

}  // namespace

void add_product(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, at::ScalarType type) {
  const bool is_first = !sum.defined();
  if (left.scalar_type() == type) {
    if (is_first) sum = at::mm(left, right);
    else sum.addmm_(left, right);
  } else if (const auto addmm = wide_addmm(left)) {
    if (is_first) sum = at::empty({left.size(0), right.size(1)}, left.options().dtype(type));
    addmm->call(sum, left, right, type, /*beta=*/is_first ? 0 : 1, /*alpha=*/1, sum);
  } else {
    const at::Tensor product = at::mm(left, right);
    if (is_first) sum = product.to(type);
    else sum += product;
  }
}

}  // namespace lmhead
