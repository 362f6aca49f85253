#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lmhead/base/files.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/printable_json.h"
#include "lmhead/cli/progress.h"
#include "lmhead/cli/signals.h"
#include "lmhead/cli/study_table.h"
#include "lmhead/study/study_statistics.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

const char* name_of(RunState state) {
  return state == RunState::kFinished ? "finished" : state == RunState::kStarted ? "started" : "to do";
}

/// Every run that is known now, and what they cost.
void print_plan(StudyProgress& progress, std::size_t jobs) {
  const StudyPlan plan = progress.plan();
  for (const StudyRun& run : plan.runs) std::printf("%-9s %s\n", name_of(progress.state_of(run)), run.folder.c_str());
  std::printf("%zu runs in %s", plan.runs.size(), printable_text(progress.folder().string()).c_str());
  if (plan.to_come > 0)
    std::printf(", and %lld that depend on what the search finds", static_cast<long long>(plan.to_come));
  const RemainingCost cost = remaining_cost(progress, plan);
  if (cost.unknown > 0) std::printf("\n%zu runs of unknown cost, because their data cannot be read", cost.unknown);
  std::printf("\n%.3g training FLOPs to go in the runs known so far", cost.flops);
  if (std::isfinite(cost.seconds))
    std::printf(", about %s with %zu at once, going by the rows there are",
                format_duration(cost.seconds / double(jobs)).c_str(), jobs);
  std::printf("\n");
}

std::string status_line(const StudyStatus& status) {
  std::string line = std::to_string(status.done) + "/" + std::to_string(status.known) + " runs";
  if (status.failed > 0) line += ", " + std::to_string(status.failed) + " failed";
  line += "  left " + (std::isfinite(status.seconds_left) ? format_duration(status.seconds_left) : std::string("?"));
  for (const StudyStatus::Going& going : status.going)
    line += "  " + going.run->arm_name + " seed " + std::to_string(going.run->seed) + " " + std::to_string(going.step) +
            "/" + std::to_string(going.steps);
  return line;
}

}  // namespace

int run_study(const StudyRequest& request) {
  std::vector<std::string> overrides = request.overrides;
  if (!request.device.empty()) overrides.push_back("training.device=" + request.device);
  const Study study = read_study(read_json(request.study), overrides);
  const fs::path folder = request.out.empty() ? fs::path("runs") / study.name : fs::path(request.out);
  const fs::path rows = request.rows.empty() ? folder / "rows.jsonl" : fs::path(request.rows);
  RunProcesses processes(request.jobs > 1 ? std::optional(1) : std::nullopt);
  StudyProgress progress(study, folder, rows);
  if (request.dry_run) {
    print_plan(progress, request.jobs);
    return 0;
  }

  bool finished = true;
  if (!request.statistics_only) {
    install_stop_handler();
    LiveLine line;
    std::size_t done = 0;
    finished =
        run_study(progress, processes,
                  {.jobs = request.jobs,
                   .discard_runs = request.discard_runs,
                   .on_status =
                       [&](const StudyStatus& status) {
                         if (!line.is_due() && status.done == done) return;
                         done = status.done;
                         line.write(status_line(status));
                       },
                   .on_failure =
                       [&](const StudyRun& run, const std::string& error) {
                         line.finish();
                         std::fprintf(stderr, "%s failed: %s\n", run.folder.c_str(), printable_text(error).c_str());
                       },
                   .should_stop = stop_requested});
  }
  const Json statistics = study_statistics(progress);
  make_directory(folder);
  write_file_atomic(folder / "statistics.json", statistics.dump(2) + "\n");
  std::fputs(study_table(printable(statistics)).c_str(), stdout);
  if (finished) return 0;
  if (!stop_requested()) return 1;
  std::fprintf(stderr, "stopped and saved; go on with the same command\n");
  return 130;
}

}  // namespace lmhead
