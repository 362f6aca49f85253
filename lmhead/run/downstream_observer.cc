#include "lmhead/run/downstream_observer.h"

#include "lmhead/base/error.h"
#include "lmhead/evaluate/downstream.h"

namespace lmhead {
namespace {

/// The trainer's own model, which outlives its observers.
LoadedModel borrow(const CausalModel& model, std::int64_t sequence_length) {
  const std::shared_ptr<const void> no_owner;
  return {.kind = ModelKind::kCheckpoint,
          .name = "the run's model",
          .decoder = std::shared_ptr<const Decoder>(no_owner, &model.decoder),
          .head = std::shared_ptr<const LmHead>(no_owner, model.head.get()),
          .sequence_length = sequence_length};
}

/// Passes of a few trees stay in the caches; those that cut every request by itself keep the digits that they had.
constexpr std::int64_t kTokensCutAlike = 1024;

ScorerOptions scorer_options(const DownstreamOptions& options, std::int64_t sequence_length) {
  require(options.max_length <= sequence_length, "config",
          "observe.downstream.max_length must be at most data.sequence_length ", sequence_length, ", got ",
          options.max_length);
  ScorerOptions result{.max_length = options.max_length > 0 ? options.max_length : sequence_length};
  if (options.truncation == "document") result.pass_tokens = kTokensCutAlike;
  return result;
}

class DownstreamObserver : public Observer {
 public:
  DownstreamObserver(const DownstreamOptions& options, const TrainConfiguration& train, const Trainer& trainer)
      : every_(options.every),
        last_step_(train.training.steps),
        tasks_(read_downstream_tasks(options.requests)),
        scorer_(borrow(trainer.model(), train.data.sequence_length),
                scorer_options(options, train.data.sequence_length)) {
    require(tasks_.tokenizer_hash == trainer.batches().tokenizer_hash(), "config", "observe.downstream.requests ",
            options.requests, " must be of the data's tokenizer ", trainer.batches().tokenizer_hash(), ", got ",
            tasks_.tokenizer_hash);
    check_downstream(scorer_, tasks_);
    if (options.truncation == "document") cut_alike(tasks_, scorer_.max_length());
  }
  std::string name() const override { return "downstream"; }
  bool wants(std::int64_t step) const override { return step % every_ == 0 || step == last_step_; }
  bool wants_tokens() const override { return false; }
  Json observe(const StepView&) override { return score_downstream(scorer_, tasks_); }

 private:
  std::int64_t every_, last_step_;
  DownstreamTasks tasks_;
  Scorer scorer_;
};

}  // namespace

void DownstreamOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("every", every, "ask at every so many steps and at the last; 0: never", at_least(0));
  visitor.field("requests", requests, "file of tasks that `lmhead evaluate DATASET --requests` wrote");
  visitor.field("truncation", truncation,
                "what loses its first tokens where they are too many: each `request` by its own length, as in the "
                "evaluation harness, or all requests of a `document` alike, which then share their context",
                {"request", "document"});
  visitor.field("max_length", max_length, "tokens that the model sees at most; 0: those of a training sequence",
                at_least(0));
}

std::unique_ptr<Observer> make_downstream_observer(const DownstreamOptions& options, const TrainConfiguration& train,
                                                   const Trainer& trainer) {
  return std::make_unique<DownstreamObserver>(options, train, trainer);
}

}  // namespace lmhead
