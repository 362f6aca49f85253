// The linear head, trained on a part of the vocabulary: the batch's own targets and words drawn by chance.
#include <ATen/TensorOperators.h>
#include <ATen/ops/index_select.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/candidate_words.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/head_schedule.h"
#include "lmhead/heads/words_head.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

struct CandidateOptions : HeadOptions {
  HeadSchedule drawn{.start = 0.2, .end = 0.5, .shape = "stages"};
  double full_share = 0.075;
  std::string negatives = "uniform";
  bool correction = true;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.group("drawn", drawn, "S / V, the share of the vocabulary that a step draws beside its targets");
    visitor.field("full_share", full_share, "the last share of training, in which the softmax is over all words",
                  between(0, 1));
    visitor.field("negatives", negatives,
                  "how words are drawn: uniform at random, strides at even distances from a random place",
                  {"uniform", "strides"});
    visitor.field("correction", correction,
                  "logits of words that are there by chance less log(S / V), so that the sum of exponentials is right "
                  "in the mean");
  }
};

/// z = W h. In training the softmax is over the batch's targets and S drawn words; a drawn word stands for V / S, which
/// the correction adds to its logit. Whatever else asks is told the whole softmax.
class CandidateHead : public WordsHead {
 public:
  CandidateHead(const CandidateOptions& options, const HeadContext& context) : WordsHead(context), options_(options) {
    for (const auto& [name, share] : {std::pair{"drawn.start", options.drawn.start}, {"drawn.end", options.drawn.end}})
      require(share >= 0 && share <= 1, "candidate", name, " must be between 0 and 1, got ", share);
  }

  HeadNeeds needs() const override {
    const bool draws = options_.full_share < 1 && (options_.drawn.start < 1 || options_.drawn.end < 1);
    return {.random = draws, .batch_targets = draws};
  }
  /// The mean over a run; targets that were not drawn come on top.
  double flops_per_token(std::int64_t) const override {
    constexpr std::int64_t kSteps = 1000;
    double words = 0;
    for (std::int64_t step = 1; step <= kSteps; ++step) words += double(drawn_at({.step = step, .steps = kSteps}));
    return 6 * words / double(kSteps) * double(hidden_size());
  }
  void check_loss(const LossOptions& options) const override { require_no_logit_terms(options, "candidate"); }

 private:
  /// S.
  std::int64_t drawn_at(const StepContext& step) const {
    if (!needs().random) return vocab_size();
    const auto full = std::llround(options_.full_share * double(step.steps));
    if (step.step > step.steps - full) return vocab_size();
    return std::llround(options_.drawn.at(step) * double(vocab_size()));
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions&,
                                     TokenStatistics*) const override {
    const std::int64_t drawn = drawn_at(input.step);
    if (drawn == vocab_size())
      return {linear_cross_entropy(input.hidden, working_map(), targets), {{"candidates", double(vocab_size())}}};
    const Candidates candidates =
        candidates_of(targets, draw_words(input.step, vocab_size(), drawn, options_.negatives == "strides"),
                      vocab_size(), input.batch_targets);
    LinearMap map{working_map().weight.index_select(0, candidates.ids)};
    if (options_.correction && drawn > 0)
      map.bias =
          candidates.drawn.to(loss_type(input.hidden.scalar_type())) * -std::log(double(drawn) / double(vocab_size()));
    return {linear_cross_entropy(input.hidden, map, candidates.targets),
            {{"candidates", double(candidates.ids.size(0))}}};
  }

  CandidateOptions options_;
};

}  // namespace

HeadKind candidate_head() {
  return describe_head<CandidateHead, CandidateOptions>(
      "candidate",
      "z = W h; trained by softmax over the batch's targets and S drawn words, the logits of the latter less log(S / "
      "V)",
      "(targets + S) / V in a step before the last share: 6 S D operations a token in the mean over a run",
      "D numbers a token, and a copy of (targets + S) D weights",
      "Bengio & Senecal 2008; Jean et al. 2015, arXiv 1412.2007; modded-nanogpt pull request 360 (stages, strides)");
}

}  // namespace lmhead
