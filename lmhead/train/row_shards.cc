#include "lmhead/train/row_shards.h"

#include <algorithm>

#include "lmhead/data/batches.h"

namespace lmhead {
namespace {

std::int64_t count_rows(const at::Tensor& tensor) { return tensor.dim() == 0 ? 1 : tensor.size(0); }

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

void RowBucket::add(const ParameterList& parameters, std::size_t index, const RowShards& shards) {
  filled_.resize(shards.size());
  std::vector<Place> of_process;
  for (std::size_t process = 0; process < shards.size(); ++process) {
    const at::Tensor rows = rows_of(parameters[index]->value.detach(), shards[process][index]);
    of_process.push_back({filled_[process], rows.numel(), rows.sizes().vec()});
    filled_[process] += rows.numel();
  }
  members.push_back(index);
  places_.push_back(std::move(of_process));
  chunk = std::ranges::max(filled_);
}

at::Tensor RowBucket::place(const at::Tensor& line, std::size_t member, std::size_t process) const {
  const Place& place = places_[member][process];
  return line.narrow(0, place.first, place.numbers).view(place.shape);
}

}  // namespace lmhead
