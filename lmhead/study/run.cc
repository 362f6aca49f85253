#include "lmhead/study/run.h"


#include "lmhead/base/error.h"

namespace lmhead {
namespace {

/// Measures gradient retention every so many steps of a run.
class RetentionObserver : public Observer {
 public:
  explicit RetentionObserver(const GradientRetentionOptions& options) : options_(options) {}
  std::string name() const override { return "gradient_retention"; }
  bool wants(std::int64_t step) const override { return step % options_.every == 0; }
  Json observe(const StepView& view) override {
    return to_json(measure_gradient_retention(*view.head.linear_map(), view.hidden, view.targets, options_));
  }

 private:
  GradientRetentionOptions options_;
};

void add_observers(Trainer& trainer, const ObserveOptions& options) {
  if (options.gradient_retention.every == 0) return;
  require(trainer.model().head->linear_map().has_value(), "config",
          "observe.gradient_retention.every must be 0 for a head that is no linear map");
  trainer.add_observer(std::make_unique<RetentionObserver>(options.gradient_retention));
}

Json head_singular_values(const LmHead& head) {
  const auto map = head.linear_map();
  if (!map) return nullptr;
  const at::Tensor values = HeadSpace(*map).singular_values().contiguous();
  return std::vector<double>(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
}

/// Leaves word of what ended a run, where there is still room for it: the log cannot show a step that never was.
void record_failure(Trainer& trainer, const char* what) {
  Json summary = trainer.summary("failed");
  summary["error"] = what;
  try {
    trainer.folder().write_summary(summary);
  } catch (const Error&) {  // the disk is full, perhaps; the error that matters is on its way to the caller
  }
}

}  // namespace

void ObserveOptions::visit_fields(FieldVisitor& visitor) {
  visitor.group("gradient_retention", gradient_retention, "how much of the logit gradient passes the head");
}

void RunConfiguration::visit_fields(FieldVisitor& visitor) {
  train.visit_fields(visitor);
  visitor.group("observe", observe, "what is measured while training");
}

Json complete_configuration(const Json& json) { return write_options(read_options<RunConfiguration>(json)); }

bool is_finished(const std::filesystem::path& folder, const Json& complete) {
  const auto summary = read_summary(folder);
  if (!summary || summary->value("state", "") != "finished") return false;
  const auto file = folder / "config.json";
  return std::filesystem::exists(file) && parse_json(read_file(file), file.string()) == complete;
}

bool run_training(const Json& json, const std::filesystem::path& folder, const RunControl& control) {
  const auto configuration = read_options<RunConfiguration>(json);
  Trainer trainer(configuration.train, write_options(configuration), folder);
  add_observers(trainer, configuration.observe);
  control.on_start(trainer.resumed_step());
  bool finished = false;
  try {
    finished = trainer.run(control.trainer);
  } catch (const Error& error) {
    record_failure(trainer, error.what());
    throw;
  }
  Json summary = trainer.summary(finished ? "finished" : "stopped");
  const Json values = head_singular_values(*trainer.model().head);
  if (!values.is_null()) summary["head_singular_values"] = values;
  trainer.folder().write_summary(summary);
  return finished;
}

}  // namespace lmhead
