// The linear head, trained on targets further ahead as well through a small adapter each.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/silu.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "lmhead/heads/head_list.h"
#include "lmhead/heads/head_schedule.h"
#include "lmhead/heads/words_head.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct MultiTokenOptions : HeadOptions {
  std::int64_t targets = 2;
  std::optional<std::int64_t> width;
  HeadSchedule weight{.start = 0.5, .end = 0};
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("targets", targets, "K, how many targets behind the next one are trained on", between(1, 1024));
    visitor.field("width", width, "inner width w of an adapter; null: a quarter of hidden_size, rounded up",
                  between(1, kMostHeadSize));
    visitor.group("weight", weight, "of a further target's loss against that of the next; at 0 they cost nothing");
  }
};

/// z = W h. Training adds weight(t) times the mean loss of y_(t+1+k) under softmax(W (h + B_k silu(A_k h))) for k = 1
/// to K; whatever else asks is told the next token's.
class MultiTokenHead : public WordsHead {
 public:
  MultiTokenHead(const MultiTokenOptions& options, const HeadContext& context) : WordsHead(context), options_(options) {
    const std::int64_t hidden = context.hidden_size, width = options.width.value_or((hidden + 3) / 4);
    for (std::int64_t ahead = 1; ahead <= options.targets; ++ahead) {
      // B begins at zero: an adapter begins as the identity.
      const std::string name = "lm_head.ahead." + std::to_string(ahead);
      adapters_.push_back({own(context.parameter(name + ".down_proj.weight", {width, hidden},
                                                 normal_initializer(1 / std::sqrt(double(hidden))))),
                           own(context.parameter(name + ".up_proj.weight", {hidden, width}, constant_initializer(0)))});
    }
  }

  HeadNeeds needs() const override { return {.tokens = true, .targets_ahead = options_.targets}; }
  double flops_per_token(std::int64_t) const override {
    const double further = double(options_.targets) * options_.weight.share_of_run();
    return 6 * (double(vocab_size()) * double(hidden_size()) * (1 + further) +
                further * 2 * double(adapters_[0].down->value.numel()));
  }
  double memory_per_token(std::int64_t) const override {
    const double width = double(hidden_size()), further = double(options_.targets);
    return 3 * width * (1 + further) + further * (2 * width + 3 * double(adapters_[0].down->value.size(0))) +
           4 * (1 + further);
  }

 private:
  struct Adapter {
    ParameterPtr down, up;  // A [w, D], B [D, w]
  };

  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics*) const override {
    const double weight = options_.weight.at(input.step);
    if (weight == 0)
      return {WordsHead::compute_training_loss(input, targets, options, nullptr).loss, {{"ahead_weight", 0}}};
    const at::Tensor& hidden = input.hidden;
    const at::TensorOptions wide = hidden.options().dtype(loss_type(hidden.scalar_type()));
    std::vector<Rows> all;
    const auto add = [&](const at::Tensor& features, const at::Tensor& of_rows, double of_mean) {
      const auto counted = std::max<std::int64_t>(1, of_rows.ne(kIgnored).sum().item<std::int64_t>());
      all.push_back({features, of_rows, at::full(of_rows.sizes(), of_mean / double(counted), wide)});
    };
    add(hidden, targets, 1);
    for (std::size_t index = 0; index < adapters_.size(); ++index) {
      const Adapter& adapter = adapters_[index];
      const at::Tensor inner = at::silu(projection(hidden, adapter.down->working, {}));
      add(hidden + projection(inner, adapter.up->working, {}),
          targets_ahead(targets, input.tokens, std::int64_t(index) + 1), weight);
    }
    return {joint_loss(std::move(all), options), {{"ahead_weight", weight}}};
  }

  MultiTokenOptions options_;
  std::vector<Adapter> adapters_;
};

}  // namespace

HeadKind multi_token_head() {
  return describe_head<MultiTokenHead, MultiTokenOptions>(
      "multi_token",
      "z = W h; trained with weight(t) sum_k of the losses of y_(t+1+k) under softmax(W (h + B_k silu(A_k h))) beside",
      "1 + K while further targets weigh something: 6 ((1 + K) V D + 2 K w D) operations a token then",
      "3 (1 + K) D + 2 K D + 3 K w numbers a token", "Gloeckle et al. 2024, arXiv 2404.19737");
}

}  // namespace lmhead
