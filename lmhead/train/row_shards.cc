#include "lmhead/train/row_shards.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "lmhead/data/batches.h"

namespace lmhead {
namespace {

std::int64_t count_rows(const at::Tensor& tensor) { return tensor.dim() == 0 ? 1 : tensor.size(0); }

std::int64_t count_numbers(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t(1), std::multiplies<>());
}

/// Cuts runs of parameters, in the order in which they are added.
class BucketList {
 public:
  explicit BucketList(const Layout& layout) : layout_(layout) {
    for (const auto& shape : layout.shapes) all_rows_[0].push_back({0, shape.empty() ? 1 : shape[0]});
  }
  void add(std::size_t index, bool is_scattered) {
    const std::int64_t numbers = count_numbers(layout_.shapes[index]);
    if (buckets.empty() || filled_ + numbers > kBucketNumbers || buckets.back().is_scattered != is_scattered) {
      buckets.emplace_back().is_scattered = is_scattered;
      filled_ = 0;
    }
    filled_ += numbers;
    buckets.back().add(index, layout_.shapes[index], is_scattered ? layout_.shards : all_rows_);
  }

  std::vector<RowBucket> buckets;

 private:
  const Layout& layout_;
  RowShards all_rows_{1};
  std::int64_t filled_ = 0;
};

}  // namespace

RowShards shard_rows(const ParameterList& parameters, const std::vector<bool>& is_whole, std::int64_t processes) {
  RowShards shards{std::size_t(processes)};
  std::vector<double> work(std::size_t(processes), 0);
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    const at::Tensor& value = parameters[index]->value;
    const std::int64_t rows = count_rows(value);
    const auto least = std::size_t(std::ranges::min_element(work) - work.begin());
    for (std::size_t process = 0; process < shards.size(); ++process) {
      const Share share{std::int64_t(process), processes};
      shards[process].push_back(!is_whole[index]   ? Rows{share.begin(rows), share.end(rows) - share.begin(rows)}
                                : process == least ? Rows{0, rows}
                                                   : Rows{});
    }
    if (is_whole[index])
      work[least] += double(value.numel()) * double(std::min(rows, value.numel() / std::max<std::int64_t>(rows, 1)));
  }
  return shards;
}

Layout lay_out(const ParameterList& parameters, const std::vector<Placement>& placement,
               const std::vector<bool>& is_whole, std::int64_t processes) {
  Layout layout{placement, {}, shard_rows(parameters, is_whole, processes)};
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    const at::Tensor& value = parameters[index]->value;
    layout.shapes.push_back(value.sizes().vec());
    if (layout.is(Placement::kEverywhere, index))
      for (std::vector<Rows>& of_process : layout.shards) of_process[index] = {0, count_rows(value)};
  }
  return layout;
}

std::vector<std::int64_t> Layout::rows_of_processes(std::size_t parameter) const {
  std::vector<std::int64_t> rows;
  for (const std::vector<Rows>& of_process : shards) rows.push_back(of_process[parameter].count);
  return rows;
}

at::Tensor rows_of(const at::Tensor& tensor, const Rows& rows) {
  return (tensor.dim() == 0 ? tensor.view({1}) : tensor).narrow(0, rows.first, rows.count);
}

ParameterList pieces_of(const ParameterList& parameters, const std::vector<Rows>& rows) {
  ParameterList pieces;
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    pieces.push_back(std::make_shared<Parameter>(*parameters[index]));
    Parameter& piece = *pieces.back();
    piece.value = piece.working = rows_of(parameters[index]->value.detach(), rows[index]);
    if (rows[index].count != count_rows(parameters[index]->value)) piece.parts.clear();
  }
  return pieces;
}

void RowBucket::add(std::size_t index, const std::vector<std::int64_t>& shape, const RowShards& shards) {
  filled_.resize(shards.size());
  std::vector<Place> of_process;
  std::vector<std::int64_t> of_rows = shape.empty() ? std::vector<std::int64_t>{1} : shape;
  for (std::size_t process = 0; process < shards.size(); ++process) {
    of_rows[0] = shards[process][index].count;
    const std::int64_t numbers = count_numbers(of_rows);
    of_process.push_back({filled_[process], numbers, of_rows});
    filled_[process] += numbers;
  }
  members.push_back(index);
  places_.push_back(std::move(of_process));
  chunk = std::ranges::max(filled_);
}

at::Tensor RowBucket::place(const at::Tensor& line, std::size_t member, std::size_t process) const {
  const Place& place = places_[member][process];
  return line.narrow(0, place.first, place.numbers).view(place.shape);
}

std::vector<RowBucket> gradient_buckets(const ParameterList& parameters, const Layout& layout,
                                        const std::vector<bool>& scattered) {
  BucketList list(layout);
  for (std::size_t index = parameters.size(); index-- > 0;)
    if (parameters[index]->kind != ParameterKind::kConstant && !layout.is(Placement::kHere, index))
      list.add(index, scattered[index]);
  return std::move(list.buckets);
}

std::vector<RowBucket> value_buckets(const ParameterList& parameters, const Layout& layout) {
  BucketList list(layout);
  for (std::size_t index = 0; index < parameters.size(); ++index)
    if (parameters[index]->kind != ParameterKind::kConstant && layout.is(Placement::kSharedOut, index))
      list.add(index, /*is_scattered=*/true);
  return std::move(list.buckets);
}

}  // namespace lmhead
