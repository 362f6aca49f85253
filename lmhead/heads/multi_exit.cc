// The linear head, whose matrix inner blocks are held to as well while training begins.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>

#include <utility>

#include "lmhead/heads/head_list.h"
#include "lmhead/heads/head_schedule.h"
#include "lmhead/heads/inner_blocks.h"
#include "lmhead/heads/words_head.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

struct MultiExitOptions : HeadOptions {
  std::int64_t exits = 1;
  HeadSchedule weight{.start = 0.3, .end = 0};
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("exits", exits, "E, how many inner blocks are held to the targets, at even distances",
                  between(1, kMostHeadSize));
    visitor.group("weight", weight, "of an exit's loss against that of the last block; at 0 exits cost nothing");
  }
};

/// z = W h. Training adds weight (t) times the loss of softmax(W g_e norm(h^(l_e))) for every exit e, g_e: a trained
/// gain; whatever else asks is told the last block's.
class MultiExitHead : public WordsHead {
 public:
  MultiExitHead(const MultiExitOptions& options, const HeadContext& context)
      : WordsHead(context),
        options_(options),
        blocks_(inner_blocks(options.exits, context.num_hidden_layers, "multi_exit", "exits")) {
    for (std::int64_t index = 0; index < options.exits; ++index)
      gains_.push_back(own(context.parameter("lm_head.exit_norms." + std::to_string(index) + ".weight",
                                             {context.hidden_size}, constant_initializer(1), ParameterKind::kVector)));
  }

  HeadNeeds needs() const override { return {.layers = blocks_}; }
  double flops_per_token(std::int64_t) const override {
    return 6 * double(vocab_size()) * double(hidden_size()) *
           (1 + double(options_.exits) * options_.weight.share_of_run());
  }
  double memory_per_token(std::int64_t) const override {
    return 3 * double(hidden_size()) * double(1 + options_.exits) + 3 * double(1 + options_.exits);
  }

 private:
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics*) const override {
    const double weight = options_.weight.at(input.step);
    if (weight == 0)
      return {WordsHead::compute_training_loss(input, targets, options, nullptr).loss, {{"exit_weight", 0}}};
    const double count = double(targets.size(0));
    const at::ScalarType type = input.hidden.scalar_type();
    const auto weights = [&](double of_mean) {
      return at::full(targets.sizes(), of_mean / count, input.hidden.options().dtype(loss_type(type)));
    };
    std::vector<Rows> all = {{input.hidden, targets, weights(1)}};
    for (std::size_t index = 0; index < gains_.size(); ++index)
      all.push_back({normed_layer(input.layers[index], gains_[index]->working, type), targets, weights(weight)});
    return {joint_loss(std::move(all), options), {{"exit_weight", weight}}};
  }

  MultiExitOptions options_;
  std::vector<std::int64_t> blocks_;
  std::vector<ParameterPtr> gains_;
};

}  // namespace

HeadKind multi_exit_head() {
  return describe_head<MultiExitHead, MultiExitOptions>(
      "multi_exit", "z = W h; trained with weight(t) sum_e of the losses of softmax(W g_e norm(h^(l_e))) beside",
      "1 + E while exits weigh something: 6 (1 + E) V D operations a token then", "3 (1 + E) D numbers a token",
      "deep supervision: Lee et al. 2015, arXiv 1409.5185");
}

}  // namespace lmhead
