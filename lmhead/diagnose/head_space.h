// The column space of a head's weight, and how much of each token's logit gradient lies in it.
//
// Everything is exact and streams: nothing of size V x V, and nothing of size N x V beyond a block of rows,
// exists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>

#include "lmhead/kernels/linear_map.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

class FieldVisitor;
struct TokenStatistics;

/// How the numerical column space of W is decided.
struct HeadSpaceOptions {
  std::optional<double> rank_cutoff;  // null: 2e-7 for float64 weights, else 1e-6
  bool center_weight = false;
  /// Gradients come from a training pass, in which W was rounded to the type that it is given in: they are taken as
  /// they are unless the rounding of their float32 sums, times the condition of W, would show. No option of a
  /// configuration.
  bool from_training_pass = false;
  /// In whose unnamed files a basis as large as W lies (scratch_tensor.h); none: memory. No option of a configuration.
  std::optional<std::filesystem::path> scratch = std::nullopt;
  void visit_fields(FieldVisitor& visitor);
};

/// Mean row [D] and row norms [V] of `weight` [V, D] in float64, from tiles: no float64 copy of the weight
/// exists.
at::Tensor mean_row(const at::Tensor& weight);
at::Tensor row_norms(const at::Tensor& weight);

/// Sums of squares that all retention figures are made of, one row a token, float64. With d = dL_t/dz_t the
/// gradient of the token's own loss at the output of the linear map's product (p - y for a map without scale
/// and soft-cap). NaN where it cannot be known (see nonlinear_energies.h):
struct TokenEnergies {
  at::Tensor total;            // [n] ||d||^2
  at::Tensor retained;         // [n] ||P_W d||^2 = g^T (W^T W)^+ g
  at::Tensor gradient_square;  // [n] ||g||^2, g = W^T d
  at::Tensor step_square;      // [n] ||W g||^2 = g^T W^T W g: the logit change that -g induces
  at::Tensor log_probability;  // [n] nats
  at::Tensor correct;          // [n] bool: the target has the largest logit
};

/// An orthonormal basis Q = W T of col(W), with W = Q R.
///
/// W^T W is formed in float64 from tiles of W; directions whose singular value is not above rank_cutoff times
/// the largest (or, where centered, times the norm of what centering removed, if that is larger) are left
/// out. Where the condition is above 1e4 a second pass makes Q orthonormal again (theory: two rounds of
/// Cholesky-QR, Yamamoto et al. 2015, by eigenvectors instead of triangles). Where the gradient's own
/// rounding would be amplified too much by T, Q is formed once (one copy of W) and the loss is differentiated
/// through Q itself.
///
/// Of a W whose rows lie in several processes no more travels than Gram matrices D x D: `map` has this process's rows,
/// Q's rows are this process's, and everything else here is of the whole, the same in all processes.
class HeadSpace {
 public:
  /// Throws where the map's shapes or types do not fit together or W is not finite.
  explicit HeadSpace(const LinearMap& map, const HeadSpaceOptions& options = {}, const Processes& processes = {});

  /// The energies of `hidden` [n, D] with `targets` [n], none of which may be ignored, in blocks of rows.
  /// Memory: a block of logits, and n x 6 float64.
  TokenEnergies energies(const at::Tensor& hidden, const at::Tensor& targets) const;

  /// The energies that `statistics` of tokens under the same map give. Only where the loss is differentiated through W.
  TokenEnergies energies(const TokenStatistics& statistics) const;
  /// Whether the loss is differentiated through a basis of its own, because rounding would grow too much.
  bool through_basis() const { return through_basis_; }

  /// What the loss is differentiated through, W or Q (rows of this process), and the features that go with it; for who
  /// computes the statistics of a map that several processes have.
  const LinearMap& differentiated_map() const { return map_; }
  at::Tensor features(const at::Tensor& hidden) const;
  TokenEnergies energies_of_features(const TokenStatistics& statistics) const;

  /// Q^T d for rows d of `gradient` [n, V]: [n, rank] float64.
  at::Tensor coordinates(const at::Tensor& gradient) const;
  /// R R^T q for rows q of `coordinates`: what backpropagation and a step on the features make of them, so
  /// that expand(backpropagated(coordinates(d))) = W W^T d.
  at::Tensor backpropagated(const at::Tensor& coordinates) const;
  /// Q q for rows q of `coordinates`: [n, V] float64; expand(coordinates(d)) = P_W d.
  at::Tensor expand(const at::Tensor& coordinates) const;

  std::int64_t vocab_size() const { return vocab_size_; }
  std::int64_t hidden_size() const { return hidden_size_; }
  std::int64_t rank() const { return rank_; }
  /// Largest over smallest singular value that is counted in the rank; 0 for W = 0.
  double condition() const { return condition_; }
  /// All min(V, D) singular values of W (of the centered W where asked for), largest first, float64.
  const at::Tensor& singular_values() const { return singular_values_; }
  bool centered() const { return options_.center_weight; }
  /// True where col(W) is all of the space that a logit gradient can lie in.
  bool spans_everything() const { return rank_ >= vocab_size() - (centered() ? 1 : 0); }
  /// Expected ||d - P d||^2 / ||d||^2 for a uniformly random subspace of the same dimension.
  double null_destroyed_energy() const;

 private:
  at::Tensor gram(const at::Tensor& transform) const;
  TokenEnergies block_energies(const at::Tensor& hidden, const at::Tensor& targets) const;
  TokenEnergies energies_of(const TokenStatistics& statistics) const;
  void find_basis();
  void form_basis();

  HeadSpaceOptions options_;
  Processes processes_;  // that have rows of W
  LinearMap map_;        // what the loss is differentiated through; its weight is W, or Q once that is formed
  bool through_basis_ = false;
  std::int64_t hidden_size_, vocab_size_;
  at::Tensor mean_row_;     // [D] float64, where centered
  at::Tensor transform_;    // T, [D, rank] float64
  at::Tensor coordinates_;  // R = T^+, [rank, D] float64
  at::Tensor singular_values_;
  std::int64_t rank_ = 0;
  double condition_ = 0;
};

}  // namespace lmhead
