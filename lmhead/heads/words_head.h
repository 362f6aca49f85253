// What heads have in common that are z = W h, and differ from the linear head in how they are trained.
#pragma once

#include <optional>
#include <vector>

#include "lmhead/heads/mapped_head.h"

namespace lmhead {

/// W [V, D] is the embedding's matrix where that is tied.
class WordsHead : public MappedHead {
 public:
  std::optional<LinearMap> linear_map() const override { return LinearMap{weight_->value.detach()}; }
  ParameterPtr own_matrix() const override { return if_own(weight_); }

 protected:
  explicit WordsHead(const HeadContext& context);

  at::Tensor map_features(const HeadInput& input) const override { return input.select(input.hidden); }
  LinearMap working_map() const override { return {weight_->working}; }

  static constexpr std::int64_t kIgnored = -100;
  /// Further features that W is trained on beside the head's own.
  struct Rows {
    at::Tensor features, targets, weights;  // [N, D]; [N], kIgnored where a row counts nothing; [N] of each loss
  };
  /// The weighted sum of all their losses, in one pass: one gradient of W, and as many products as there are rows.
  at::Tensor joint_loss(std::vector<Rows> all, const LossOptions& options) const;

 private:
  ParameterPtr weight_;
};

}  // namespace lmhead
