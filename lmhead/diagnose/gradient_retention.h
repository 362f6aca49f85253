// How much of the logit gradient the head lets through to the backbone (Godey & Artzi, arXiv 2603.10145).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "lmhead/base/options.h"
#include "lmhead/diagnose/head_space.h"
#include "lmhead/heads/shared_words.h"

namespace lmhead {

/// When and how a run measures its gradient retention.
struct GradientRetentionOptions {
  std::int64_t every = 0;
  std::int64_t tokens = 0;
  HeadSpaceOptions head_space;
  void visit_fields(FieldVisitor& visitor);
};

/// The figures over all tokens seen; the glossary defines each. Ratios are NaN where every logit gradient was
/// zero.
struct GradientRetentionResult {
  double destroyed_ratio;
  double null_destroyed_ratio;
  double destroyed_excess;
  double retained_energy;
  double visible_cosine;
  double step_cosine;  // 0 where the head lets nothing through
  std::int64_t head_rank;
  double head_condition;
  std::int64_t tokens;
  bool centered;
};

/// The result under the keys of the glossary; `centered` is there only where it is true.
Json to_json(const GradientRetentionResult& result);

/// Accumulates the figures over batches; W is fixed for its lifetime. Memory: D x D float64, and one copy of
/// W where W is ill-conditioned, centered or narrower than float32.
class GradientRetention {
 public:
  /// `map` has the rows of this of `processes`, see HeadSpace; tokens are then given by `add`.
  explicit GradientRetention(const LinearMap& map, const HeadSpaceOptions& options = {},
                             const Processes& processes = {});
  explicit GradientRetention(std::shared_ptr<const HeadSpace> head_space);

  /// Adds `hidden` [N, D] with `targets` [N] int64; rows whose target is -100 are left out. Returns the
  /// energies of the other rows, in order. Throws on targets outside [0, V) and on features that are not
  /// finite.
  TokenEnergies update(const at::Tensor& hidden, const at::Tensor& targets);
  /// Adds tokens whose energies under the same head are already known.
  void add(const TokenEnergies& energies);
  /// Throws where no token was seen.
  GradientRetentionResult compute() const;
  void reset();

  /// All that was added so far, [5] float64; `add_sums` under the same head goes on from it.
  at::Tensor sums() const;
  void add_sums(const at::Tensor& sums);

  const HeadSpace& head_space() const { return *head_space_; }

 private:
  std::shared_ptr<const HeadSpace> head_space_;
  std::int64_t tokens_ = 0;
  double total_ = 0, retained_ = 0, gradient_square_ = 0, step_square_ = 0;
};

/// One batch measured by itself, over `options.tokens` evenly spaced rows where that is not 0. `statistics` of all its
/// rows under the same map, from a training pass in the type of the map's weight, save both products. Their sums are
/// float32, and where the rounding of these, times W's condition, would err the figures by more than 1e-4, the batch is
/// passed through the head again. In bfloat16 each logit z and each entry of p - y is rounded besides, by 2^-9 of
/// itself at most, before it meets W: visible_cosine then errs by up to (1 + max |z|) 2^-9, and by about sqrt(D / V) of
/// that where roundings are independent, whatever W's condition.
GradientRetentionResult measure_gradient_retention(const LinearMap& map, const at::Tensor& hidden,
                                                   const at::Tensor& targets,
                                                   const GradientRetentionOptions& options = {},
                                                   const TokenStatistics* statistics = nullptr);

/// The same of a map of which each of several processes has the rows of its words: all call it with the same tokens. W
/// is not gathered: what travels is D x D and N x D.
GradientRetentionResult measure_gradient_retention(const SharedWords& words, const at::Tensor& hidden,
                                                   const at::Tensor& targets, const GradientRetentionOptions& options);

}  // namespace lmhead
