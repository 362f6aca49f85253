// The D x D matrices that rules on gradients are made of: Gram matrices, their powers, projections. All in float64.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/random.h"
#include "lmhead/heads/head_gradient_options.h"
#include "lmhead/heads/head_pass.h"

namespace lmhead {

/// sum_i w_i (x_i - c)(x_i - c)^T over the rows of `rows` [n, D]; w [n] is 1 and c [D] is 0 where undefined. Memory: a
/// tile.
at::Tensor gram(const at::Tensor& rows, const at::Tensor& row_weight = {}, const at::Tensor& center = {});

/// (A + lambda I)^-exponent of a positive semi-definite `matrix` A [D, D], lambda = damping times its mean eigenvalue.
/// Eigenvalues not above 1e-12 of the largest (singular values of W below 1e-6) count as zero and stay so: without
/// damping this is a power of the pseudo-inverse.
at::Tensor inverse_power(const at::Tensor& matrix, double exponent, double damping);

/// V_k V_k^T, V_k the eigenvectors of the `rank` largest eigenvalues of `matrix` [D, D].
at::Tensor top_projection(const at::Tensor& matrix, std::int64_t rank);

/// [size, rank] orthonormal columns that span a uniformly random (Haar) subspace; each column's sign means nothing.
at::Tensor random_basis(std::int64_t size, std::int64_t rank, RandomStream& stream);

/// The matrix of whitening called `name`, of a pass whose gradient dL/dx of some x [N, D] is `gradient`:
///   head                 W^T W
///   centered_head        the same of W less its mean row, which changes neither probabilities nor any g_t
///   fisher               W^T diag(mean p) W - (1/N) sum e_t e_t^T, e_t = W^T p_t: the mean Hessian of the loss by the
///                        features where there is neither scale nor soft-cap nor an added loss
///   gradient_covariance  (1/N) sum g_t g_t^T, g_t the gradient of each token's own loss
///   feature_covariance   (1/N) sum h_t h_t^T: the right-hand Kronecker factor of dL/dW (Martens & Grosse 2015)
///   random               Q diag(s) Q^T, s the eigenvalues of gradient_covariance, Q Haar and drawn once a run
/// Tokens are those of the micro-batch in all processes.
/// Cost: V D^2 for the first two; fisher adds a pass over the logits, 2 V D a token.
at::Tensor whitening_matrix(const std::string& name, const HeadPass& pass, const at::Tensor& gradient);
bool matrix_needs_linear_map(const std::string& name);

/// A float32 D x D matrix that is computed anew every so many steps, at their first micro-batch; it is part of a run's
/// state unless it is new at every step.
class RefreshedMatrix {
 public:
  RefreshedMatrix(std::string name, std::int64_t size, std::optional<std::int64_t> every, c10::Device device);
  /// `make()` gives the new matrix where `pass` is due.
  const at::Tensor& at_pass(const HeadPass& pass, const std::function<at::Tensor()>& make);
  const at::Tensor& value() const { return value_; }
  std::vector<std::pair<std::string, at::Tensor>> state() const;

 private:
  std::string name_;
  std::optional<std::int64_t> every_;
  at::Tensor value_;
};

}  // namespace lmhead
