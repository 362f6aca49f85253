// The processes that work on one thing together, and what travels between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lmhead/base/error.h"

namespace lmhead {

/// Another process ended, or did not answer within the group's time; which one, only those that are left can tell.
class ProcessLost : public Error {
 public:
  using Error::Error;
};

/// A process group of PyTorch's, reached by its name through the dispatcher; or this process alone, where nothing is
/// sent and every method gives back what it was given.
///
/// All processes call the same methods in the same order. What comes back is the same bits in each of them. A method
/// throws `ProcessLost` where another process is gone. Copies stand for the same group.
class Processes {
 public:
  Processes() = default;
  /// `group` is the name under which PyTorch knows a group of `size` processes, of which this is the `rank`-th.
  Processes(std::string group, std::int64_t rank, std::int64_t size);

  std::int64_t rank() const { return rank_; }
  std::int64_t size() const { return size_; }
  bool alone() const { return size_ == 1; }
  /// The one that prints and writes.
  bool is_first() const { return rank_ == 0; }

  /// Makes each tensor, in its place, the sum over processes, in its own type. A sum of two has one order and so one
  /// result; of more, the order depends on the sizes alone. Memory: a copy of the tensors.
  void sum(const std::vector<at::Tensor>& tensors) const;
  /// The same of one, which is left as it is.
  at::Tensor sum(const at::Tensor& tensor) const;
  double sum(double value) const;
  bool any(bool value) const;
  /// The largest over processes of each number of `tensor`, which is left as it is.
  at::Tensor max(const at::Tensor& tensor) const;
  /// What the process `rank` has, in all of them; `tensor` is of its shape and type in each.
  at::Tensor from(std::int64_t rank, const at::Tensor& tensor) const;

  /// [P, ...]: every process's, which are of one shape and type.
  at::Tensor gather(const at::Tensor& own) const;
  /// The same of numbers: P lists of equal length.
  std::vector<std::vector<double>> gather(const std::vector<double>& own) const;
  /// The rows of all processes, of which each may have another number; in the order of ranks. Undefined stays so.
  at::Tensor gather_rows(const at::Tensor& own) const;
  /// What the first process says.
  std::string from_first(const std::string& text) const;

  /// Does `work`, in which nothing may be sent, and throws in all processes where it threw in one: what that one threw,
  /// told by its text.
  void together(const std::function<void()>& work) const;
  /// Throws in all processes, as `[who] all processes must have the same WHAT, got ...`, unless `own` is one in all.
  void require_same(std::string_view who, std::string_view what, const std::string& own) const;

  // What is sent while something else goes on, and other methods are called, in one order in all processes.

  /// Begins to make `tensor`, contiguous, the sum over processes; `wait(tensor)`.
  void begin_sum(const at::Tensor& tensor) const;
  /// Begins to sum [P, n] over processes, of which each receives the line of its rank, [n]; `wait` for that.
  at::Tensor begin_sum_of_lines(const at::Tensor& lines) const;
  /// Begins to gather [n] of each process as [P, n]; `wait` for that. `own` must live until then.
  at::Tensor begin_gather(const at::Tensor& own) const;
  void wait(const at::Tensor& sent) const;

  /// Seconds that this process has spent sending, and waiting for others, so far.
  double seconds() const { return spent_ ? spent_->seconds : 0; }
  /// Bytes that it has sent so far, if everything goes round in a ring (ring.h).
  double sent_bytes() const { return spent_ ? spent_->bytes : 0; }

 private:
  struct Spent {
    double seconds = 0, bytes = 0;
  };
  std::vector<std::string> gather_texts(const std::string& own) const;
  void send_sum(const at::Tensor& tensor, const char* what) const;
  at::Tensor send_lines(const at::Tensor& lines) const;
  at::Tensor send_own(const at::Tensor& own) const;

  std::string group_;
  std::int64_t rank_ = 0, size_ = 1;
  std::shared_ptr<Spent> spent_;
};

}  // namespace lmhead
