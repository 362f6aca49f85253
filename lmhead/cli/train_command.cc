#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/progress.h"
#include "lmhead/cli/signals.h"
#include "lmhead/run/run.h"

namespace lmhead {
namespace {

constexpr double kShownShare = 0.005;  // of the time of training that observers take, from which it is said

namespace fs = std::filesystem;

int print_keys() {
  for (const FieldDescription& field : describe_options<RunConfiguration>())
    std::printf("%s = %s\n    %s; %s\n", field.path.c_str(), field.default_value.c_str(), field.type.c_str(),
                field.doc.c_str());
  for (const UpdateKey& key : describe_update_keys())
    std::printf("optimizer.groups[].%s = %s   (of type %s)\n    %s; %s\n", key.field.path.c_str(),
                key.field.default_value.c_str(), key.type.c_str(), key.field.type.c_str(), key.field.doc.c_str());
  std::printf("(keys of a head: lmhead heads)\n");
  return 0;
}

void tell_start(const RunStart& start) {
  if (start.after_step == 0) return;
  std::fprintf(stderr, "going on after step %lld\n", static_cast<long long>(start.after_step));
  const auto tell = [](std::int64_t before, std::int64_t now, const char* one, const char* several) {
    if (before == now) return;
    std::fprintf(stderr,
                 "its checkpoint was written with %lld %s and this is %lld: the rest will differ in its last digits\n",
                 static_cast<long long>(before), before == 1 ? one : several, static_cast<long long>(now));
  };
  tell(start.checkpoint_threads.value_or(start.threads), start.threads, "thread", "threads");
  tell(start.checkpoint_processes.value_or(start.processes), start.processes, "process", "processes");
}

/// What is to be run.
struct Job {
  Json configuration;
  fs::path folder;
  std::int64_t steps;
};

Job job_of(const TrainRequest& request) {
  const fs::path given = request.configuration;
  const bool is_run = fs::is_directory(given);
  require(!is_run || request.run.empty(), "train", "--run must not be given with a run folder, got ", request.run);
  const fs::path file = is_run ? given / "config.json" : given;
  Json json = read_json(file);
  for (const std::string& assignment : request.overrides) apply_override(json, assignment);
  if (!request.device.empty()) json["training"]["device"] = request.device;
  const fs::path folder = is_run                 ? given
                          : !request.run.empty() ? fs::path(request.run)
                                                 : fs::path("runs") / given.stem();
  const std::int64_t steps = read_options<RunConfiguration>(json).train.training.steps;
  return {std::move(json), folder, steps};
}

}  // namespace

int run_train(const TrainRequest& request, const Processes& processes) {
  const bool speaks = processes.is_first();
  if (request.keys) return speaks ? print_keys() : 0;
  Job job;
  bool is_done = false;
  processes.together([&] {
    job = job_of(request);
    is_done = speaks && is_finished(job.folder, complete_configuration(job.configuration));
  });
  const std::string shown = printable_text(job.folder.string());
  if (processes.any(is_done)) {
    if (speaks) std::printf("%s is finished already\n", shown.c_str());
    return 0;
  }
  install_stop_handler();
  std::unique_ptr<Progress> progress;
  const auto on_start = [&](const RunStart& start) {
    if (!speaks) return;
    tell_start(start);
    progress = std::make_unique<Progress>("", start.after_step, job.steps);
  };
  const auto on_step = [&](const StepRecord& record) {
    if (progress) progress->show(record);
  };
  bool finished = false;
  try {
    finished =
        run_training(job.configuration, job.folder,
                     {.on_start = on_start, .trainer = {.on_step = on_step, .should_stop = stop_requested}}, processes);
  } catch (...) {
    if (progress) progress->finish();
    throw;
  }
  if (progress) progress->finish();
  if (!finished) {
    if (speaks) std::fprintf(stderr, "stopped and saved; go on with: lmhead train %s\n", shown.c_str());
    return 130;
  }
  if (!speaks) return 0;
  const Json summary = *read_summary(job.folder);
  const Json& validation = summary["final"]["validation"];
  std::printf("%s: validation loss %.4f nats/token", shown.c_str(), validation["loss"].get<double>());
  if (validation["bits_per_byte"].is_number())
    std::printf(", %.4f bits/byte", validation["bits_per_byte"].get<double>());
  if (summary["tokens_per_second"].is_number())
    std::printf(", %.0f tokens/s", summary["tokens_per_second"].get<double>());
  const double share = summary["measure_seconds"].get<double>() / summary["wall_seconds"].get<double>();
  if (share >= kShownShare) std::printf(", %.1f %% more time for observers", 100 * share);
  std::printf("\n");
  return 0;
}

}  // namespace lmhead
