// The tokens of several processes as one list, and rows by id of which every process has those of its share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lmhead/processes/processes.h"

namespace lmhead {

/// Whose tokens a call is given.
enum class TokensOf { kThisProcess, kAllProcesses };

/// The M tokens of all processes, in the order of ranks, and which of them are this one's. All processes make it, and
/// call its methods, together.
class AllTokens {
 public:
  /// `own`: how many tokens this process has, which may differ between processes and be none; or all of them, the same
  /// in each.
  AllTokens(std::int64_t own, const Processes& processes, TokensOf tokens);

  /// Rows [M, ...] of all, of the rows of each.
  at::Tensor gather(const at::Tensor& own) const;
  /// This process's rows of the sum over processes of `all` [M, D].
  at::Tensor scatter_sum(const at::Tensor& all) const;
  at::Tensor own(const at::Tensor& all) const { return counts_.empty() ? all : all.narrow(0, first_, count_); }
  /// [M]: of each token the number of its process.
  at::Tensor spread(const std::vector<double>& of_process, const at::Tensor& like) const;
  std::int64_t count() const { return count_; }

 private:
  bool is_even() const;
  at::Tensor padded(const at::Tensor& rows) const;

  Processes processes_;
  std::vector<std::int64_t> counts_;  // of each process; none: all have the same tokens
  std::int64_t count_, most_ = 0, first_ = 0;
};

/// Where the rows of `ids` (from 0 to `all` - 1) lie among the `rows` that this process has, those of its share of
/// `all`; -1 where another has them. Throws where it must have another number of rows.
at::Tensor places_of_ids(const at::Tensor& ids, std::int64_t all, std::int64_t rows, const Processes& processes);

}  // namespace lmhead
