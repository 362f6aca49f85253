// The factorised head of the paper's rank ladder.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/mapped_head.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct LowRankHeadOptions : HeadOptions {
  std::int64_t rank = 16;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("rank", rank, "k, the inner width of W = A B", between(1, kMostHeadSize));
  }
};

class LowRankHead : public MappedHead {
 public:
  LowRankHead(const LowRankHeadOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size) {
    require(!context.tied_embedding, "head",
            "low_rank must have model.tie_word_embeddings = false, got true: A and B are not the embedding");
    require(options.rank <= context.hidden_size, "head", "head.rank must be at most hidden_size ", context.hidden_size,
            ", got ", options.rank);
    word_processes_ = context.word_processes;
    const double range = context.initializer_range;
    // B keeps the scale of its input, A has the dense head's scale times sqrt(D / k): initial logits are then
    // distributed as the dense head's are, whatever the rank.
    const double width = double(context.hidden_size), rank = double(options.rank);
    down_ = own(context.parameter("lm_head.down_proj.weight", {options.rank, context.hidden_size},
                                  normal_initializer(1 / std::sqrt(width))));
    up_ = own(context.parameter("lm_head.up_proj.weight", {context.vocab_size, options.rank},
                                normal_initializer(range * std::sqrt(width / rank))));
  }

  std::optional<LinearMap> linear_map() const override {
    at::NoGradGuard no_grad;
    return LinearMap{at::mm(up_->value, down_->value)};
  }
  ParameterList word_rows() const override { return {up_}; }
  double memory_per_token(std::int64_t) const override { return 2 * double(down_->value.size(0)); }

 private:
  at::Tensor map_features(const HeadInput& input) const override {
    return projection(input.hidden, down_->working, {});
  }
  LinearMap working_map() const override { return {up_->working}; }

  ParameterPtr down_, up_;
};

}  // namespace

HeadKind low_rank_head() {
  return describe_head<LowRankHead, LowRankHeadOptions>("low_rank", "z = A (B h), A: V x k, B: k x D",
                                                        "k (V + D) / (V D): 6 k (V + D) operations a token",
                                                        "2 k numbers a token", "Godey & Artzi, arXiv 2603.10145");
}

}  // namespace lmhead
