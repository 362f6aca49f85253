#include "lmhead/kernels/stepped_losses.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/logsumexp.h>

#include <cmath>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

bool has_kernel(const at::Tensor& product, const at::Tensor& direction, const at::Tensor& targets) {
  const auto reads = [](const at::Tensor& matrix) {
    return is_readable(matrix) && matrix.scalar_type() == at::kDouble && matrix.is_contiguous();
  };
  return reads(product) && reads(direction) && is_readable(targets);
}

}  // namespace

at::Tensor stepped_losses(const at::Tensor& product, const at::Tensor& direction, double step,
                          const at::Tensor& targets, const LogitTransform& transform) {
  require(product.dim() == 2 && direction.sizes() == product.sizes() && targets.dim() == 1 &&
              targets.size(0) == product.size(0),
          "stepped_losses", "product and direction must be [n, V] and targets [n], got ", product.sizes(), ", ",
          direction.sizes(), " and ", targets.sizes());
  if (!has_kernel(product, direction, targets))
    return plain_stepped_losses(product, direction, step, targets, transform);
  const std::int64_t rows = product.size(0), size = product.size(1);
  const at::Tensor losses = at::empty({rows}, product.options()), ids = targets.contiguous();
  const auto& kernels = vector::row_kernels().logits_double;
  const vector::LineTransform line_transform{.transform = transform};
  const double *from = product.const_data_ptr<double>(), *along = direction.const_data_ptr<double>();
  const auto* target = ids.const_data_ptr<std::int64_t>();
  double* to = losses.mutable_data_ptr<double>();
  at::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> line(static_cast<std::size_t>(size));
    for (std::int64_t row = begin; row < end; ++row) {
      const double *start = from + row * size, *direction_row = along + row * size;
      for (std::int64_t column = 0; column < size; ++column)
        line[std::size_t(column)] = start[column] - step * direction_row[column];
      if (changes_logits(transform)) kernels.load(line.data(), nullptr, size, line_transform, line.data());
      const vector::LineSums sums = kernels.sums(line.data(), size, nullptr, false, false, line_transform);
      to[row] = sums.max + std::log(sums.sum) - kernels.logit(line[std::size_t(target[row])], line_transform);
    }
  });
  return losses;
}

at::Tensor plain_stepped_losses(const at::Tensor& product, const at::Tensor& direction, double step,
                                const at::Tensor& targets, const LogitTransform& transform) {
  const at::Tensor logits = logits_of_product(product.sub(direction, step), transform);
  return at::logsumexp(logits, 1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1);
}

}  // namespace lmhead
