// Which rows of each parameter a process updates, and how rows of many parameters travel in one buffer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lmhead/base/module.h"

namespace lmhead {

/// Consecutive rows; a parameter without dimensions has one.
struct Rows {
  std::int64_t first = 0, count = 0;
};

/// The rows of each process [process][parameter], which are all rows together.
using RowShards = std::vector<std::vector<Rows>>;

/// Every parameter's rows in equal parts; one that `is_whole` goes to a single process, so that work on these, taken
/// as rows x columns x the smaller of the two, is even.
RowShards shard_rows(const ParameterList& parameters, const std::vector<bool>& is_whole, std::int64_t processes);

/// Those rows of `tensor`, which is of the parameter's shape; a view.
at::Tensor rows_of(const at::Tensor& tensor, const Rows& rows);

/// Parameters that share the memory of these rows, under the same names.
ParameterList pieces_of(const ParameterList& parameters, const std::vector<Rows>& rows);

/// Parameters that travel together: a buffer [processes, chunk] holds in its p-th line the rows of the p-th process,
/// parameter after parameter, and then nothing.
struct RowBucket {
  std::vector<std::size_t> members;  // places in the list of parameters
  std::int64_t chunk = 0;

  /// Adds a parameter behind the others.
  void add(const ParameterList& parameters, std::size_t index, const RowShards& shards);
  /// Where the rows of `process` of the member of that number lie in the process's line [chunk]; of the rows' shape.
  at::Tensor place(const at::Tensor& line, std::size_t member, std::size_t process) const;

 private:
  struct Place {
    std::int64_t first, numbers;
    std::vector<std::int64_t> shape;
  };
  std::vector<std::vector<Place>> places_;  // [member][process]
  std::vector<std::int64_t> filled_;        // of each process's line
};

/// At most so many numbers, 8 MiB of float32, travel at once, unless a single parameter has more.
constexpr std::int64_t kBucketNumbers = std::int64_t(2) << 20;

}  // namespace lmhead
