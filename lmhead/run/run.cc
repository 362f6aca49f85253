#include "lmhead/run/run.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <random>
#include <thread>

#include "lmhead/base/content_hash.h"
#include "lmhead/base/error.h"
#include "lmhead/base/folder_lock.h"
#include "lmhead/run/input_files.h"

namespace lmhead {
namespace {

/// Measures gradient retention every so many steps of a run, from the training pass itself unless small gradients
/// vanish in its type.
class RetentionObserver : public Observer {
 public:
  /// `words`: those that each have rows of the head.
  RetentionObserver(const GradientRetentionOptions& options, bool is_float16, const Processes& words)
      : options_(options), is_float16_(is_float16), words_(words) {}
  std::string name() const override { return "gradient_retention"; }
  bool wants(std::int64_t step) const override { return step % options_.every == 0; }
  bool wants_statistics() const override { return !is_float16_ && words_.alone(); }
  bool is_of_all_processes() const override { return !words_.alone(); }
  Json observe(const StepView& view) override {
    if (!words_.alone()) {
      const SharedWords words{*view.head.linear_map(), view.head.vocab_size(), words_};
      return to_json(measure_gradient_retention(words, view.input.hidden, view.targets, options_));
    }
    const bool is_known = view.statistics.hidden_gradient.defined();
    LinearMap map = *view.head.linear_map();
    if (is_known) map.weight = map.weight.to(view.input.hidden.scalar_type());  // what the pass went through
    return to_json(measure_gradient_retention(map, view.input.hidden, view.targets, options_,
                                              is_known ? &view.statistics : nullptr));
  }

 private:
  GradientRetentionOptions options_;
  bool is_float16_;
  Processes words_;
};

/// Diagnostics on a batch whose sequences stand for documents.
class DiagnosticsObserver : public Observer {
 public:
  DiagnosticsObserver(const ObservedDiagnostics& options, std::int64_t sequence_length, std::int64_t last_step)
      : options_(options), sequence_length_(sequence_length), last_step_(last_step) {
    for (const auto& [name, is_chosen] : options.chosen)
      if (is_chosen) names_.push_back(name);
  }
  std::string name() const override { return "diagnostics"; }
  bool wants(std::int64_t step) const override {
    return (options_.every > 0 && step % options_.every == 0) ||
           (options_.powers_of_two && (std::has_single_bit(std::uint64_t(step)) || step == last_step_));
  }
  Json observe(const StepView& view) override {
    // The head outlives this call, so nothing owns it here.
    const std::shared_ptr<const LmHead> head(std::shared_ptr<const LmHead>(), &view.head);
    DiagnosticSet diagnostics(head, names_, options_.options);
    const at::Tensor rows = at::arange(view.targets.size(0), view.targets.options());
    diagnostics.update({.hidden = view.input.hidden,
                        .targets = view.targets,
                        .documents = rows.floor_divide(sequence_length_),
                        .positions = rows.remainder(sequence_length_),
                        .pass = view.input});
    return diagnostics.result();
  }

 private:
  ObservedDiagnostics options_;
  std::int64_t sequence_length_, last_step_;
  std::vector<std::string> names_;
};

void add_observers(Trainer& trainer, const RunConfiguration& configuration) {
  const ObserveOptions& options = configuration.observe;
  const bool is_linear = trainer.model().head->linear_map().has_value();
  if (options.gradient_retention.every > 0) {
    require(is_linear, "config", "observe.gradient_retention.every must be 0 for a head that is no linear map");
    trainer.add_observer(std::make_unique<RetentionObserver>(
        options.gradient_retention, configuration.train.training.precision == "float16", trainer.word_processes()));
  }
  if (options.diagnostics.every > 0 || options.diagnostics.powers_of_two) {
    const auto& chosen = options.diagnostics.chosen;
    require(std::any_of(chosen.begin(), chosen.end(), [](const auto& item) { return item.second; }), "config",
            "observe.diagnostics must choose at least one of the diagnostics, got none");
    trainer.add_observer(std::make_unique<DiagnosticsObserver>(
        options.diagnostics, configuration.train.data.sequence_length, configuration.train.training.steps));
  }
  if (options.downstream.every > 0)
    trainer.add_observer(make_downstream_observer(options.downstream, configuration.train, trainer));
}

/// Computed by all of `words` together.
Json head_singular_values(const LmHead& head, const Processes& words) {
  const auto map = head.linear_map();
  if (!map) return nullptr;
  const at::Tensor values = HeadSpace(*map, {}, words).singular_values().cpu().contiguous();
  return std::vector<double>(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
}

/// Leaves word of what ended a run, where there is still room for it: the log cannot show a step that never was.
void record_failure(Trainer& trainer, const char* what) {
  Json summary = trainer.summary("failed");
  summary["error"] = what;
  try {
    trainer.folder().write_summary(summary);
  } catch (const std::exception&) {  // the disk is full, perhaps; the error that matters is on its way to the caller
  }
}

}  // namespace

void ObservedDiagnostics::visit_fields(FieldVisitor& visitor) {
  visitor.field("every", every, "measure at every so many steps; 0: never", at_least(0));
  visitor.field("powers_of_two", powers_of_two, "measure at steps 1, 2, 4, 8 and so on, and at the last");
  for (const DiagnosticKind& kind : diagnostic_kinds()) visitor.field(kind.name, chosen[kind.name], kind.meaning);
  visitor.group("options", options, "of the diagnostics");
}

void ObserveOptions::visit_fields(FieldVisitor& visitor) {
  visitor.group("gradient_retention", gradient_retention, "how much of the logit gradient passes the head");
  visitor.group("diagnostics", diagnostics, "any diagnostics of `lmhead measure`, on the batch of chosen steps");
  visitor.group("downstream", downstream, "tasks that the model is asked");
}

void RunConfiguration::visit_fields(FieldVisitor& visitor) {
  train.visit_fields(visitor);
  visitor.group("observe", observe, "what is measured while training");
}

namespace {

/// A configuration with keys that are newer than it at their defaults; itself where it is no configuration.
Json completed(const Json& json) {
  try {
    return complete_configuration(json);
  } catch (const Error&) {
    return json;
  }
}

/// Throws in all processes where they were given different configurations, and names the key.
void require_one_configuration(const Processes& processes, const Json& complete) {
  if (processes.alone()) return;
  const Json of_first = Json::parse(processes.from_first(complete.dump()));
  processes.together([&] {
    const std::string difference = first_difference(of_first, complete);
    require(difference.empty(), "train", "all processes must have the same configuration, got another value of ",
            difference, " in process ", processes.rank());
  });
}

/// Throws in all processes where one sees another folder under this path than the first, which has it open.
void require_one_folder(const Processes& processes, Trainer& trainer, const std::filesystem::path& folder) {
  if (processes.alone()) return;
  constexpr auto kPatience = std::chrono::seconds(5);  // network disks show what is new some time later
  const std::string text = processes.from_first(std::to_string(std::random_device()()) + "\n");
  processes.together([&] {
    if (processes.is_first()) trainer.folder().sign(text);
  });
  processes.together([&] {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!is_signed(folder, text)) {
      require(std::chrono::steady_clock::now() < deadline, "run", folder.string(),
              " must be one folder that all processes see, got another one in process ", processes.rank());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
}

/// `json` as it were on the device of `like` and shared out as that is: checkpoints go between these, so a run may.
Json computed_as(const Json& like, Json json) {
  if (json.is_object()) json["parallel"] = like.at("parallel");
  if (json.contains("training") && json["training"].is_object())
    json["training"]["device"] = like.at("training").at("device");
  return json;
}

}  // namespace

Json complete_configuration(const Json& json) { return write_options(read_options<RunConfiguration>(json)); }

bool is_finished(const std::filesystem::path& folder, const Json& complete) {
  const auto summary = read_summary(folder);
  if (!summary || summary->value("state", Json()) != "finished") return false;
  try {
    return computed_as(complete, completed(read_json(folder / "config.json"))) == complete;
  } catch (const Error&) {  // there is none, or it is damaged
    return false;
  }
}

std::optional<std::string> against_sharing_words(const ObserveOptions& observe) {
  if (observe.diagnostics.every > 0 || observe.diagnostics.powers_of_two)
    return "observe.diagnostics must be off with parallel.vocabulary on, got some, which look at the whole head";
  if (observe.downstream.every > 0)
    return "observe.downstream.every must be 0 with parallel.vocabulary on, got " +
           std::to_string(observe.downstream.every) + ", where the whole head is asked";
  return std::nullopt;
}

RunInputs inputs_of_run(const std::filesystem::path& folder) {
  const Json summary = read_summary(folder).value_or(Json::object());
  const auto text = [](const Json& json) {
    return json.is_string() ? std::optional(json.get<std::string>()) : std::nullopt;
  };
  const Json dataset = summary.value("dataset", Json());
  RunInputs inputs{.dataset = text(dataset.is_object() ? dataset.value("content_hash", Json()) : Json())};
  for (const InputFileKind& kind : input_file_kinds())
    if (const auto hash = text(summary.value(kind.name, Json())); hash && !hash->empty())
      inputs.files[kind.name] = *hash;
  return inputs;
}

bool run_training(const Json& json, const std::filesystem::path& folder, const RunControl& control,
                  const Processes& processes) {
  std::optional<RunConfiguration> configuration;
  Json complete;
  processes.together([&] {
    configuration = read_options<RunConfiguration>(json);
    complete = write_options(*configuration);
    std::string& vocabulary = configuration->train.parallel.vocabulary;
    const auto against = processes.alone() ? std::nullopt : against_sharing_words(configuration->observe);
    require(vocabulary != "on" || !against, "train", against.value_or(""));
    if (against) vocabulary = "off";
  });
  require_one_configuration(processes, complete);
  std::unique_ptr<Trainer> trainer;
  std::string requests;
  processes.together([&] {
    trainer = std::make_unique<Trainer>(
        configuration->train, complete, folder,
        [&](const Json& there) { return computed_as(complete, completed(there)); }, processes);
    add_observers(*trainer, *configuration);
    const DownstreamOptions& downstream = configuration->observe.downstream;
    if (downstream.every > 0) requests = hash_file(downstream.requests);
  });
  require_one_folder(processes, *trainer, folder);
  processes.require_same("train", "state to begin from", trainer->inputs());
  control.on_start({trainer->resumed_step(), at::get_num_threads(), trainer->resumed_threads(), processes.size(),
                    trainer->resumed_processes()});
  bool finished = false;
  try {
    finished = trainer->run(control.trainer);
  } catch (const std::exception& error) {
    if (processes.is_first()) record_failure(*trainer, error.what());
    throw;
  }
  const Processes words = trainer->word_processes();
  Json values;
  if (!words.alone()) values = head_singular_values(*trainer->model().head, words);
  processes.together([&] {
    if (!processes.is_first()) return;
    Json summary = trainer->summary(finished ? "finished" : "stopped");
    summary["requests"] = requests;
    if (words.alone()) values = head_singular_values(*trainer->model().head, words);
    if (!values.is_null()) summary["head_singular_values"] = values;
    trainer->folder().write_summary(summary);
  });
  return finished;
}

}  // namespace lmhead
