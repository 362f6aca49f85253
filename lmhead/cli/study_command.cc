#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lmhead/cli/commands.h"
#include "lmhead/cli/progress.h"
#include "lmhead/study/study.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

const char* name_of(RunState state) {
  return state == RunState::kFinished ? "finished" : state == RunState::kStarted ? "started" : "to do";
}

/// A figure in a column of ten; a dash where nothing was measured.
std::string cell(const char* pattern, double value) {
  char text[32] = "-";
  if (!std::isnan(value)) std::snprintf(text, sizeof text, pattern, value);
  return std::string(10 - std::min<std::size_t>(10, std::string(text).size()), ' ') + text;
}

void print_table(const std::vector<ArmSummary>& arms) {
  std::size_t width = 4;
  for (const ArmSummary& arm : arms) width = std::max(width, arm.arm.size());
  std::printf("\n%-*s %5s %10s %10s %10s %10s %10s %10s\n", int(width), "arm", "seeds", "loss", "bits/byte", "destroyed",
              "null", "excess", "tokens/s");
  for (const ArmSummary& arm : arms)
    std::printf("%-*s %5lld %s %s %s %s %s %s\n", int(width), arm.arm.c_str(), static_cast<long long>(arm.seeds),
                cell("%.4f", arm.validation_loss).c_str(), cell("%.4f", arm.bits_per_byte).c_str(),
                cell("%.4f", arm.destroyed_ratio).c_str(), cell("%.4f", arm.null_destroyed_ratio).c_str(),
                cell("%+.4f", arm.destroyed_excess).c_str(), cell("%.0f", arm.tokens_per_second).c_str());
  std::printf(
      "loss: validation, nats/token, mean over seeds; destroyed: share of the logit gradient's norm that the head does\n"
      "not pass back, at the last measured step; null: the same for a random subspace of the head's rank.\n");
}

}  // namespace

int run_study(const StudyRequest& request) {
  const Study study = read_study(parse_json(read_file(request.study), request.study), request.overrides);
  const fs::path folder = request.out.empty() ? fs::path("runs") / study.name : fs::path(request.out);
  const std::vector<StudyRun> runs = runs_of(study);
  if (request.dry_run) {
    for (const StudyRun& run : runs) std::printf("%-9s %s\n", name_of(state_of(run, folder)), run.folder.c_str());
    std::printf("%zu runs in %s\n", runs.size(), folder.c_str());
    return 0;
  }

  install_stop_handler();
  std::unique_ptr<Progress> progress;
  std::string prefix;
  std::int64_t steps = 0;
  const bool finished = run_study(
      study, folder,
      {.on_run =
           [&](std::size_t index, const StudyRun& run, RunState state) {
             if (progress) progress->finish();
             prefix = "[" + std::to_string(index + 1) + "/" + std::to_string(runs.size()) + "] " + run.arm + " seed " +
                      std::to_string(run.seed) + "  ";
             steps = run.configuration["training"]["steps"].get<std::int64_t>();
             if (state == RunState::kFinished) std::fprintf(stderr, "%sfinished already\n", prefix.c_str());
           },
       .on_start = [&](const StudyRun&,
                       std::int64_t first) { progress = std::make_unique<Progress>(prefix, first, steps); },
       .on_step = [&](const StepRecord& record) { progress->show(record); },
       .on_failure =
           [&](const StudyRun&, const std::string& error) {
             if (progress) progress->finish();
             std::fprintf(stderr, "%sfailed: %s\n", prefix.c_str(), error.c_str());
           },
       .should_stop = stop_requested});
  if (progress) progress->finish();
  print_table(summarise(study, folder));
  if (finished) return 0;
  if (!stop_requested()) return 1;
  std::fprintf(stderr, "stopped and saved; go on with the same command\n");
  return 130;
}

}  // namespace lmhead
