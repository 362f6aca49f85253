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

class DownstreamObserver : public Observer {
 public:
  DownstreamObserver(const DownstreamOptions& options, const TrainConfiguration& train, const Trainer& trainer)
      : every_(options.every),
        last_step_(train.training.steps),
        tasks_(read_downstream_tasks(options.requests)),
        scorer_(borrow(trainer.model(), train.data.sequence_length), {.max_length = train.data.sequence_length}) {
    require(tasks_.tokenizer_hash == trainer.batches().tokenizer_hash(), "config", "observe.downstream.requests ",
            options.requests, " must be of the data's tokenizer ", trainer.batches().tokenizer_hash(), ", got ",
            tasks_.tokenizer_hash);
    check_downstream(scorer_, tasks_);
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
}

std::unique_ptr<Observer> make_downstream_observer(const DownstreamOptions& options, const TrainConfiguration& train,
                                                   const Trainer& trainer) {
  return std::make_unique<DownstreamObserver>(options, train, trainer);
}

}  // namespace lmhead
