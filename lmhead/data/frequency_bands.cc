#include "lmhead/data/frequency_bands.h"

#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>

namespace lmhead {

FrequencyBands frequency_bands(const at::Tensor& counts) {
  const std::int64_t vocab_size = counts.size(0);
  const at::Tensor values = counts.contiguous();
  const at::Tensor order = at::argsort(values, /*stable=*/true, /*dim=*/0, /*descending=*/true).contiguous();
  FrequencyBands bands{at::empty({vocab_size}, at::kLong), {}};
  const auto* count = values.const_data_ptr<std::int64_t>();
  const auto* id = order.const_data_ptr<std::int64_t>();
  auto* band = bands.band.mutable_data_ptr<std::int64_t>();
  std::int64_t low = 1, high = 10, rank = 1;
  while (rank <= vocab_size && count[id[rank - 1]] > 0) {
    for (; rank <= std::min(high, vocab_size) && count[id[rank - 1]] > 0; ++rank)
      band[id[rank - 1]] = std::int64_t(bands.names.size());
    bands.names.push_back("rank " + std::to_string(low) + "-" + std::to_string(high));
    low = high + 1;
    high *= 10;
  }
  for (; rank <= vocab_size; ++rank) band[id[rank - 1]] = std::int64_t(bands.names.size());
  bands.names.push_back("never seen");
  return bands;
}

void count_targets(const at::Tensor& targets, at::Tensor& counts) {
  counts.index_add_(0, targets, at::ones_like(targets));
}

}  // namespace lmhead
