#include "lmhead/kernels/gram.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/threads.h"
#include "lmhead/kernels/tile_sizes.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

using tile_sizes::divide_up;

constexpr const char* kWho = "gram";
/// Rows whose products are summed in registers: a panel of them stays in the first caches.
constexpr std::int64_t kDepth = 256;
/// Of a block, for any instruction set.
constexpr std::int64_t kMostProducts = 256;
/// Column blocks of the plain way, of which those above the diagonal are left out.
constexpr std::int64_t kPlainBlocks = 8;

void check(const at::Tensor& rows, const at::Tensor& sum) {
  require(rows.dim() == 2 && at::isFloatingType(rows.scalar_type()), kWho, "rows must be floating [n, D], got ",
          rows.scalar_type(), " ", rows.sizes());
  require(sum.scalar_type() == at::kDouble && sum.sizes() == at::IntArrayRef({rows.size(1), rows.size(1)}), kWho,
          "sum must be float64 [D, D] for D = ", rows.size(1), ", got ", sum.scalar_type(), " ", sum.sizes());
}

bool takes(const at::Tensor& rows, const at::Tensor& sum) {
  return rows.is_cpu() && has_kernel_type(rows) && sum.is_contiguous() && (rows.stride(1) == 1 || rows.size(1) == 1);
}

void pack(const vector::GramKernels& kernels, const at::Tensor& rows, std::int64_t first, std::int64_t count,
          std::int64_t column, std::int64_t columns, double* panel) {
  const std::int64_t stride = rows.stride(0), place = first * stride + column;
  switch (rows.scalar_type()) {
    case at::kFloat:
      return kernels.pack_float(rows.const_data_ptr<float>() + place, count, stride, columns, panel);
    case at::kDouble:
      return kernels.pack_double(rows.const_data_ptr<double>() + place, count, stride, columns, panel);
    default: {
      const auto* bits = static_cast<const vector::Bfloat16*>(rows.const_data_ptr());
      return kernels.pack_bfloat16(bits + place, count, stride, columns, panel);
    }
  }
}

}  // namespace

void add_gram(const at::Tensor& rows, const at::Tensor& sum) {
  check(rows, sum);
  if (!takes(rows, sum)) return plain_add_gram(rows, sum);
  const vector::GramKernels& kernels = vector::row_kernels().gram;
  const std::int64_t width = rows.size(1), wide = kernels.columns, high = kernels.rows;
  const std::int64_t panels = divide_up(width, wide), panel_size = kDepth * wide;
  const at::Tensor packed = at::empty({panels * panel_size}, at::kDouble);
  double *const panel = packed.mutable_data_ptr<double>(), *const sums = sum.mutable_data_ptr<double>();
  for (std::int64_t first = 0; first < rows.size(0); first += kDepth) {
    const std::int64_t count = std::min(kDepth, rows.size(0) - first);
    at::parallel_for(0, panels, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t of = begin; of < end; ++of)
        pack(kernels, rows, first, count, of * wide, std::min(wide, width - of * wide), panel + of * panel_size);
    });
    // Blocks below the diagonal block of a panel grow fewer from panel to panel: the first and the last go together.
    at::parallel_for(0, divide_up(panels, 2), 1, [&](std::int64_t begin, std::int64_t end) {
      double products[kMostProducts];
      const auto multiply_panel = [&](std::int64_t of) {
        const std::int64_t column = of * wide, columns = std::min(wide, width - column);
        for (std::int64_t row = column; row < width; row += high) {
          kernels.multiply(panel + row / wide * panel_size + row % wide, panel + of * panel_size, count, products);
          for (std::int64_t i = 0; i < std::min(high, width - row); ++i) {
            double* place = sums + (row + i) * width + column;
            for (std::int64_t j = 0; j < columns; ++j) place[j] += products[i * wide + j];
          }
        }
      };
      for (std::int64_t of = begin; of < end; ++of) {
        multiply_panel(of);
        if (panels - 1 - of != of) multiply_panel(panels - 1 - of);
      }
    });
  }
}

void plain_add_gram(const at::Tensor& rows, const at::Tensor& sum) {
  check(rows, sum);
  const std::int64_t width = rows.size(1), block = std::max<std::int64_t>(32, divide_up(width, kPlainBlocks));
  const at::Tensor wide = rows.to(at::kDouble);
  for (std::int64_t first = 0; first < width; first += block) {
    const std::int64_t columns = std::min(block, width - first), rest = width - first;
    sum.narrow(0, first, rest)
        .narrow(1, first, columns)
        .addmm_(wide.narrow(1, first, rest).t(), wide.narrow(1, first, columns));
  }
}

}  // namespace lmhead
