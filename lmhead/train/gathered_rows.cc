#include "lmhead/train/gathered_rows.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "lmhead/train/row_shards.h"

namespace lmhead {

TensorPieces gathered_rows(const std::string& name, const at::Tensor& rows, const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& rows_of_process, const Processes& processes) {
  const auto give = [=](const std::function<void(const at::Tensor&)>& use) {
    const std::int64_t numbers = std::accumulate(shape.begin(), shape.end(), std::int64_t(1), std::multiplies<>());
    // A piece a process at the least: where these would be small, so is the whole, or there are very many.
    if (shape.empty() || numbers / processes.size() < kBucketNumbers / 2) {
      use(processes.gather_rows(rows).view(shape));
      return;
    }
    const std::int64_t step = std::max<std::int64_t>(1, kBucketNumbers * shape[0] / numbers);
    for (std::int64_t rank = 0; rank < processes.size(); ++rank)
      for (std::int64_t first = 0; first < rows_of_process[std::size_t(rank)]; first += step) {
        std::vector<std::int64_t> of_piece = shape;
        of_piece[0] = std::min(step, rows_of_process[std::size_t(rank)] - first);
        const bool is_own = rank == processes.rank();
        use(processes.from(rank, is_own ? rows.narrow(0, first, of_piece[0]) : at::empty(of_piece, rows.options())));
      }
  };
  return {name, rows.scalar_type(), shape, give};
}

}  // namespace lmhead
