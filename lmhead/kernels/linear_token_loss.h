// Losses that are any function of normalisers and target logits: mixtures of softmaxes, pointers, parts of a
// vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/made_rows.h"

namespace lmhead {

/// What is known of a token that has K rows of features and S further numbers.
struct TokenTerms {
  const double *logsumexp, *target_logit;  // [K]
  const double* range_logsumexp;           // [K, R]
  const double* further;                   // [S]
};
/// The derivatives of its loss by each of them.
struct TokenSlopes {
  double *logsumexp, *target_logit, *range_logsumexp, *further;
};

/// Gives the loss of a token and fills its slopes; called from any thread.
using TokenLoss = std::function<double(std::int64_t token, const TokenTerms& terms, const TokenSlopes& slopes)>;

struct TokenLossProblem {
  /// [N K, D], the rows of a token one behind another; with feature_ends [C N K, D]; undefined where `made` makes it.
  at::Tensor hidden;
  LinearMap map;       // weight [V, D]
  at::Tensor targets;  // [N], each in [0, V)
  at::Tensor further;  // [N, S], of any floating type; undefined where `made` makes it
  TokenLoss loss;
  /// As in LogitPass: words that do not stand in a row's distribution. A target that is absent has the logit minus
  /// infinity, and so has the logsumexp of a row without words; the slopes there must be 0.
  std::vector<std::int64_t> absent_begin = {}, absent = {};
  /// Where given, the slopes of LinearPieces [count] with knots so far apart, which bend the logits of `map`.
  at::Tensor slopes = {};  // of any floating type, positive
  double knot_step = 1;
  /// As in LogitPass: rows of the weight count at length 1. No bias then.
  bool unit_rows = false;
  /// As in LogitPass: words from feature_ends[c - 1] to feature_ends[c] see the c-th N K rows of `hidden`.
  std::vector<std::int64_t> feature_ends = {};
  /// Where given, runs of words [N, R, 2] int64, from the first to the one behind the last, whose logsumexps the loss
  /// may read; of a run without words it is minus infinity, and its slope must be 0.
  at::Tensor ranges = {};
  /// Where it can make rows, features and further numbers come from it, a block of tokens at a time. `hidden` and
  /// `further` are undefined then, and a token has one row of each of the C features.
  MadeRows made = {};
};

/// Whether these features can be computed with: on the CPU, in float32, float64 or bfloat16, and not to be
/// differentiated in forward mode or within a transform of torch.func.
bool linear_token_loss_takes(const TokenLossProblem& problem);

/// The losses [N] for reduction none, else their mean or sum, 0-dim; float32, or float64 for float64 features.
/// Gradients: hidden, weight, bias, further, slopes (summed over tokens in float64), and of what rows are made of. A
/// mean or sum costs three products, its gradients being formed in the forward pass, and [N] losses four. No
/// derivatives of gradients: those throw. Memory: a block of logits of at most 128 MiB, or for reduction none a tile a
/// thread; no N x V numbers. Throws where shapes, types or targets do not fit.
at::Tensor linear_token_loss(const TokenLossProblem& problem, Reduction reduction);

}  // namespace lmhead
