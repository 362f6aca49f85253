// Gradients on their way between processes, in buckets that are sent while the backward pass still runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/processes/processes.h"
#include "lmhead/train/row_shards.h"

namespace lmhead {

/// A step goes: `watch` before its last backward pass, `own` after it, `finish`. Not for one process alone.
///
/// Buckets are runs of parameters from the last, whose gradient comes first, to the first; they depend on parameters
/// alone and are sent in this order in all processes, each as soon as the step before has shown that no more will come.
/// What comes all the same is sent behind the rest. Memory: one copy of the gradients, and of scattered ones the rows.
class GradientExchange {
 public:
  /// Each process receives all of a gradient, or where it is `scattered` the rows that it updates. Of parameters whose
  /// rows lie here alone nothing is sent, and nothing is said by `finish`.
  GradientExchange(const ParameterList& parameters, const Layout& layout, const std::vector<bool>& scattered,
                   const Processes& processes);
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// From here to `own` gradients are taken as they come, and what was had before, `so_far`, is added. Else no more may
  /// be sent meanwhile than by the backward passes of the head and of the embedding, which come first and last in all
  /// processes, so that all send in one order.
  void watch(const std::vector<at::Tensor>& so_far);
  /// Sends what is left. A number a parameter: 0 no gradient, 1 one, 2 one that came late. `gradients`: those of this
  /// process where nothing was watched.
  std::vector<double> own(const std::vector<at::Tensor>& gradients);
  /// The sums over processes, undefined where none has a gradient. `largest`: of each parameter, over processes, the
  /// largest number that `own` gave. The tensors are overwritten in the next step.
  std::vector<at::Tensor> finish(const std::vector<double>& largest);

 private:
  struct Bucket {
    RowBucket rows;
    at::Tensor buffer;    // [processes, chunk], or [1, chunk]
    at::Tensor received;  // [chunk] once it is there
  };
  struct Entry {
    std::size_t bucket = 0, member = 0;
    at::Tensor so_far;  // of the step
    at::Tensor late;    // came after the bucket was sent
    int seen = 0;       // gradients of this backward pass
    int expected = -1;  // of the one before; not known yet
    bool is_filled = false;
  };
  const RowShards& shards_of(const Bucket& bucket) const { return bucket.rows.is_scattered ? shards_ : whole_; }
  /// Calls `use(place in the buffer, rows of tensor)` for all rows of the entry.
  template <class Use>
  void with_places(std::size_t index, const at::Tensor& tensor, const Use& use);
  void receive(std::size_t index, const at::Tensor& gradient);
  void send_ready();
  void send(Bucket& bucket);

  Processes processes_;
  RowShards shards_, whole_;
  std::vector<Entry> entries_;                     // in the order of the parameters
  std::vector<std::vector<std::int64_t>> shapes_;  // of the whole parameters
  std::vector<Bucket> buckets_;
  std::vector<std::pair<at::Tensor, unsigned>> hooks_;
  std::size_t sent_ = 0;  // buckets on their way
  bool is_watching_ = false;
};

}  // namespace lmhead
