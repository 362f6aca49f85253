// Which rows of each parameter a process updates, and how rows of many parameters travel in one buffer.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
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

/// Where the rows of a parameter lie, and who updates them.
enum class Placement {
  kEverywhere,  // every process has all and updates all
  kSharedOut,   // every process has all, updates its own, and sends what became of them
  kHere,        // every process has its own alone; the parameter's `value` is these
};

/// What each process has of every parameter, in the order of a list of them.
struct Layout {
  std::vector<Placement> placement;
  std::vector<std::vector<std::int64_t>> shapes;  // of the whole parameters
  RowShards shards;                               // what each process updates

  bool is(Placement wanted, std::size_t parameter) const { return placement[parameter] == wanted; }
  /// How many rows each process updates.
  std::vector<std::int64_t> rows_of_processes(std::size_t parameter) const;
  bool is_all_everywhere() const {
    return std::ranges::all_of(placement, [](Placement one) { return one == Placement::kEverywhere; });
  }
};
/// Of `parameters` of their whole shapes, values or none. `is_whole` as in `shard_rows`, of those that are shared out.
Layout lay_out(const ParameterList& parameters, const std::vector<Placement>& placement,
               const std::vector<bool>& is_whole, std::int64_t processes);

/// Those rows of `tensor`, which is of the parameter's shape; a view.
at::Tensor rows_of(const at::Tensor& tensor, const Rows& rows);

/// Parameters that share the memory of these rows, under the same names.
ParameterList pieces_of(const ParameterList& parameters, const std::vector<Rows>& rows);

/// Parameters that travel together: a buffer [processes, chunk] holds in its p-th line the rows of the p-th process,
/// parameter after parameter, and then nothing.
struct RowBucket {
  std::vector<std::size_t> members;  // places in the list of parameters
  std::int64_t chunk = 0;
  bool is_scattered = false;  // each process has its own line; else there is one for all

  /// Adds a parameter of that shape behind the others.
  void add(std::size_t index, const std::vector<std::int64_t>& shape, const RowShards& shards);
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

/// How gradients travel: from the last parameter to the first, without those whose rows lie here alone; each process
/// receives all of a gradient, or where it is `scattered` the rows that it updates.
std::vector<RowBucket> gradient_buckets(const ParameterList& parameters, const Layout& layout,
                                        const std::vector<bool>& scattered);
/// How new values travel: of parameters that are shared out, from the first to the last.
std::vector<RowBucket> value_buckets(const ParameterList& parameters, const Layout& layout);

}  // namespace lmhead
