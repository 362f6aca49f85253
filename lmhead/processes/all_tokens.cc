#include "lmhead/processes/all_tokens.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/data/batches.h"

namespace lmhead {

AllTokens::AllTokens(std::int64_t own, const Processes& processes, TokensOf tokens)
    : processes_(processes), count_(own) {
  if (tokens == TokensOf::kAllProcesses) return;
  for (const auto& of_process : processes.gather(std::vector<double>{double(own)}))
    counts_.push_back(std::int64_t(of_process[0]));
  most_ = std::ranges::max(counts_);
  for (std::int64_t rank = 0; rank < processes.rank(); ++rank) first_ += counts_[std::size_t(rank)];
}

at::Tensor AllTokens::gather(const at::Tensor& own) const {
  if (counts_.empty()) return own;
  const at::Tensor all = processes_.gather(padded(own));
  if (is_even()) return all.flatten(0, 1);
  std::vector<at::Tensor> parts;
  for (std::size_t rank = 0; rank < counts_.size(); ++rank)
    parts.push_back(all[std::int64_t(rank)].narrow(0, 0, counts_[rank]));
  return at::cat(parts);
}

at::Tensor AllTokens::scatter_sum(const at::Tensor& all) const {
  if (counts_.empty()) return processes_.sum(all);
  at::Tensor lines = all;
  if (!is_even()) {
    std::vector<at::Tensor> parts;
    std::int64_t first = 0;
    for (const std::int64_t count : counts_) {
      parts.push_back(padded(all.narrow(0, first, count)));
      first += count;
    }
    lines = at::cat(parts);
  }
  const at::Tensor own = processes_.begin_sum_of_lines(lines.contiguous().view({processes_.size(), -1}));
  processes_.wait(own);
  return own.view({most_, all.size(1)}).narrow(0, 0, count_);
}

at::Tensor AllTokens::spread(const std::vector<double>& of_process, const at::Tensor& like) const {
  std::vector<at::Tensor> parts;
  for (std::size_t rank = 0; rank < counts_.size(); ++rank)
    parts.push_back(at::full({counts_[rank]}, of_process[rank], like.options()));
  return at::cat(parts);
}

bool AllTokens::is_even() const {
  return std::ranges::all_of(counts_, [this](std::int64_t count) { return count == most_; });
}

at::Tensor AllTokens::padded(const at::Tensor& rows) const {
  if (rows.size(0) == most_) return rows;
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape[0] = most_;
  const at::Tensor result = at::zeros(shape, rows.options());
  result.narrow(0, 0, rows.size(0)).copy_(rows);
  return result;
}

at::Tensor places_of_ids(const at::Tensor& ids, std::int64_t all, std::int64_t rows, const Processes& processes) {
  const Share share{processes.rank(), processes.size()};
  const std::int64_t first = share.begin(all);
  require(rows == share.end(all) - first, "processes", "a process must have the rows of its share of ", all, ", got ",
          rows, " in process ", share.index, " of ", share.count);
  const at::Tensor places = ids - first;
  return at::where(places.ge(0).logical_and(places.lt(rows)), places, at::full_like(places, -1));
}

}  // namespace lmhead
