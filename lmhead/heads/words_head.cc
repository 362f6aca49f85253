#include "lmhead/heads/words_head.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

WordsHead::WordsHead(const HeadContext& context)
    : MappedHead(context.hidden_size, context.vocab_size), weight_(own_words(context, context.initializer_range)) {}

at::Tensor WordsHead::joint_loss(std::vector<Rows> all, const LossOptions& options) const {
  std::vector<at::Tensor> features, targets, weights;
  for (const Rows& rows : all) {
    features.push_back(rows.features);
    targets.push_back(rows.targets);
    weights.push_back(rows.weights);
  }
  const at::Tensor joined = at::cat(features), ids = at::cat(targets), is_counted = ids.ne(kIgnored);
  features.clear(), all.clear();  // nothing asks for the parts any more
  // Rows that count nothing stay where they are, at weight 0: leaving them out would copy the others.
  return linear_cross_entropy(joined, working_map(), ids * is_counted,
                              {.reduction = Reduction::kSum,
                               .label_smoothing = options.label_smoothing,
                               .z_loss = options.z_loss,
                               .token_weight = at::cat(weights) * is_counted});
}

}  // namespace lmhead
