// Rules for what the backbone receives in place of dL/dH.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/heads/head_gradient_options.h"
#include "lmhead/heads/head_pass.h"

namespace lmhead {

/// What a rule is made from beside its options.
struct GradientRuleContext {
  std::int64_t hidden_size, vocab_size;
  bool has_linear_map;       // the head is one linear map
  double initializer_range;  // standard deviation of a head matrix's initial values
  std::uint64_t seed;
  c10::Device device = c10::Device(c10::DeviceType::CPU);  // of the head's parameters
  Processes processes = {};                                // that have every micro-batch together
};

/// With g [N, D] the exact gradient of a micro-batch (in bfloat16 runs rounded to that), P_k = V_k V_k^T the projection
/// on the top k right singular vectors of W, and W, logits and A as float32 masters give them:
///   top_subspace     g P_k: dL/dH through the best rank-k approximation of W (the backward-only arm of Murugan,
///                    arXiv 2608.16671)
///   random_subspace  g Q Q^T, Q [D, k] Haar and drawn anew at every refresh
///   noise            g P_k + noise, isotropic in the complement, of each token's own norm ||g_t (I - P_k)||
///   fixed_feedback   dL/dU B, dL/dU [N, V] at the output of the map's product, B [V, D] normal with the head's initial
///                    standard deviation, drawn once (feedback alignment: Lillicrap et al. 2016)
///   whitened         g (A + lambda I)^-a, see whitening_matrix; with A = W^T W, a = 1 and no damping the logit step
///                    that it induces is the projection of -G on the column space of W
///   row_normalized   g_t / sqrt(||g_t||), g_t of each token's own loss
/// Cost a token: 2 D^2 (top_subspace, random_subspace, noise, whitened), 4 V D (fixed_feedback), and what a refresh
/// takes.
class HiddenGradientRule {
 public:
  virtual ~HiddenGradientRule() = default;
  /// What takes the place of `gradient` [N, D] float32 before its size is matched; `gradient` itself, the same tensor,
  /// where the options leave nothing to change.
  virtual at::Tensor apply(const at::Tensor& gradient, const HeadPass& pass) = 0;
  /// The tensors that a resumed run needs, to be saved or overwritten.
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const { return {}; }
};

/// Null for "exact". Throws where the options contradict one another or the head.
std::unique_ptr<HiddenGradientRule> make_hidden_gradient_rule(const HiddenGradientOptions& options,
                                                              const GradientRuleContext& context);

}  // namespace lmhead
