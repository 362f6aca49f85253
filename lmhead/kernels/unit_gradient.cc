#include "lmhead/kernels/unit_gradient.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/graph_task.h>

#include "lmhead/kernels/readable_tensor.h"

namespace lmhead {

at::Tensor scale_unit_gradient(const at::Tensor& gradient, const at::Tensor& upstream) {
  if (!is_readable(gradient) || !is_readable(upstream)) return gradient * upstream.to(gradient.scalar_type());
  const double factor = upstream.item().toDouble();
  at::Tensor own = gradient;
  // What is returned here may be what the caller keeps, so a kept graph's next pass must find it as it is.
  if (torch::autograd::get_current_graph_task_keep_graph()) return own * factor;
  return factor == 1 ? own : own.mul_(factor);
}

}  // namespace lmhead
