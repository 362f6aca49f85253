// The logit gradient of any number of tokens, known through one random sketch that is filled in a single pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>

#include "lmhead/diagnose/gradient_energies.h"
#include "lmhead/kernels/linear_map.h"

namespace lmhead {

/// A = G^T G [V, V] seen through S = A Omega, Omega [V, s] of random signs: the Nystrom approximation
/// A' = S (Omega^T S)^+ S^T (Tropp, Yurtsever, Udell & Cevher 2017), which is nowhere above A. So its eigenvalues, and
/// the energy that any space holds in it, are lower bounds, and each falls short by at most trace(A) - trace(A'), which
/// is known: trace(A) is the energy of all tokens.
///
/// The tokens make two halves with a sketch each, so that the best space of one can be tried on the other. Memory: S of
/// both halves, 2 V s numbers of the weight's type (at least float32), whatever the number of tokens; then a tile of
/// the vocabulary, and some s x s float64 at the end. Omega is made again wherever it is needed, from the stream
/// "gradient_spectrum" indexed by the token id. Time: about 4 V s + 4 V D operations a token.
class GradientSketch {
 public:
  GradientSketch(const LinearMap& map, std::int64_t columns);

  /// Adds rows of `hidden` [n, D] with `targets` [n] and `energies` [n], their ||d||^2. `documents` [n] may be
  /// undefined.
  void add(const at::Tensor& hidden, const at::Tensor& targets, const at::Tensor& energies,
           const at::Tensor& documents);

  std::int64_t columns() const { return columns_; }

  /// What is found of all tokens so far; `dimension` is that of the best spaces of the halves.
  GradientEnergies result(std::int64_t dimension) const;

 private:
  at::Tensor signs(std::int64_t first, std::int64_t count) const;
  void add_half(std::size_t half, const at::Tensor& hidden, const at::Tensor& targets);
  at::Tensor halves(const at::Tensor& documents, std::int64_t tokens);

  LinearMap map_;
  std::int64_t columns_;
  at::TensorOptions options() const { return map_.weight.options().dtype(type_).requires_grad(false); }
  at::ScalarType type_;
  std::array<at::Tensor, 2> sketch_;  // S of each half, [V, s]
  std::array<double, 2> total_{};
  struct Document {
    std::int64_t order, tokens;
  };
  std::map<std::int64_t, Document> documents_;
};

}  // namespace lmhead
