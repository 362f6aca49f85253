// One training run with everything attached: the configuration that a user writes, and what it takes to carry it out.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "lmhead/diagnose/diagnostic.h"
#include "lmhead/diagnose/gradient_retention.h"
#include "lmhead/run/downstream_observer.h"
#include "lmhead/train/trainer.h"

namespace lmhead {

/// Any of the diagnostics that `lmhead measure` has, at chosen steps of a run, on the step's own batch.
struct ObservedDiagnostics {
  std::int64_t every = 0;
  bool powers_of_two = false;
  std::map<std::string, bool> chosen;  // by the names of the list of diagnostics
  DiagnosticOptions options;
  void visit_fields(FieldVisitor& visitor);
};

struct ObserveOptions {
  GradientRetentionOptions gradient_retention;
  ObservedDiagnostics diagnostics;
  DownstreamOptions downstream;
  void visit_fields(FieldVisitor& visitor);
};

/// A run is one complete configuration.
struct RunConfiguration {
  TrainConfiguration train;
  ObserveOptions observe;
  void visit_fields(FieldVisitor& visitor);
};

/// Where a run begins.
struct RunStart {
  std::int64_t after_step;  // 0, or that of the checkpoint it goes on from
  std::int64_t threads;
  std::optional<std::int64_t> checkpoint_threads;  // those that wrote the checkpoint
  std::int64_t processes = 1;
  std::optional<std::int64_t> checkpoint_processes;  // likewise
};

struct RunControl {
  /// Called once the run is ready.
  std::function<void(const RunStart&)> on_start = [](const RunStart&) {};
  TrainerControl trainer;
};

/// Trains in `folder` to the end or until stopped; writes the summary. True when the last step is done. `json` may
/// leave out keys that have defaults; the folder's config.json has them all. Of `processes` that train together all are
/// given the same; they throw together what is wrong before the first step, and the first alone writes.
bool run_training(const Json& json, const std::filesystem::path& folder, const RunControl& control,
                  const Processes& processes = {});

/// The configuration with every default written out, checked.
Json complete_configuration(const Json& json);

/// Which observer stands against processes that each have rows of the head (parallel_layout.h), where one does.
std::optional<std::string> against_sharing_words(const ObserveOptions& observe);

/// True where the folder holds this very configuration, finished.
bool is_finished(const std::filesystem::path& folder, const Json& complete);

/// What a run says that it was made from, by the hashes of their content.
struct RunInputs {
  std::optional<std::string> dataset;        // nothing where it does not say
  std::map<std::string, std::string> files;  // by the names of input_file_kinds(), those that it read
};
RunInputs inputs_of_run(const std::filesystem::path& folder);

}  // namespace lmhead
