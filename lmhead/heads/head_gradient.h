// Everything that changes the gradients of the head on their way to the backbone and to the head's matrix.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/heads/gradient_matrix.h"
#include "lmhead/heads/head_gradient_options.h"
#include "lmhead/heads/head_pass.h"
#include "lmhead/heads/hidden_gradient_rule.h"
#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// Exact and changed gradients compared, over the micro-batches of a step.
struct GradientComparison {
  double exact_square = 0, unmatched_square = 0, sent_square = 0, product = 0;
  /// The factor that gives `changed` the norm of `exact` (1 where that is not asked for or not possible).
  /// The tensors are parts that `processes` have.
  double add(const at::Tensor& exact, const at::Tensor& changed, bool match, const Processes& processes = {});
  Json figures() const;
};

/// Hooks that change gradients and nothing else: neither logits nor the loss can depend on them.
///
/// A step goes: `attach` for every micro-batch between its forward and its backward pass, then `change_head` on the sum
/// of their gradients, then `figures`.
class HeadGradient {
 public:
  /// Null where the options are plain backpropagation, so that nothing at all is installed. Throws where the options
  /// contradict one another or the head. `head` must outlive the result; `layers` is the number of blocks.
  static std::unique_ptr<HeadGradient> make(const HeadGradientOptions& options, const LmHead& head,
                                            const LossOptions& loss, const GradientRuleContext& context,
                                            std::int64_t layers);

  /// `hidden` [N, D] and `layers` (features after every block) are those of the graph; `parts` micro-batches make the
  /// step. Of a micro-batch that several processes have, `rows_before` are in those before this one, and `rows_of_all`
  /// in all.
  void attach(std::int64_t step, std::int64_t part, std::int64_t parts, const at::Tensor& hidden,
              const std::vector<at::Tensor>& layers, const at::Tensor& targets, std::int64_t rows_before,
              std::int64_t rows_of_all);
  /// Changes the head's own gradient by the weight rule, or adds the penalties' gradients. `gradients` are those of
  /// `parameters`, summed over micro-batches (and processes).
  void change_head(const ParameterList& parameters, std::vector<at::Tensor>& gradients);

  bool needs_layers() const { return hidden_ && options_.hidden.at == "last_block_input"; }
  /// What a resumed run needs, to be saved or overwritten.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// Figures of the last step, and the mean time a step since they were last asked for.
  Json figures();

 private:
  HeadGradient(const HeadGradientOptions& options, const LmHead& head, const LossOptions& loss,
               const GradientRuleContext& context);
  at::Tensor change_hidden(const at::Tensor& gradient);
  void see_features(const at::Tensor& gradient);
  /// Whether it is in all processes.
  bool is_finite(const at::Tensor& gradient) const;
  at::Tensor whiten(const at::Tensor& gradient) const;

  HeadGradientOptions options_;
  const LmHead& head_;
  GradientRuleContext context_;
  ParameterPtr weight_;  // the head's own matrix, where a weight rule or a penalty needs it
  std::unique_ptr<HiddenGradientRule> hidden_;
  std::optional<RefreshedMatrix> whitening_;  // of the weight rule
  HeadPass pass_;
  double parts_ = 1;
  at::Tensor alignment_gradient_;
  double alignment_ = 0, orthogonality_ = 0;
  GradientComparison hidden_comparison_, weight_comparison_;
  double seconds_ = 0;
  std::int64_t steps_ = 0;
};

}  // namespace lmhead
