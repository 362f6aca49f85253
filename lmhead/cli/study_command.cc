#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/printable_json.h"
#include "lmhead/cli/progress.h"
#include "lmhead/cli/python_program.h"
#include "lmhead/cli/signals.h"
#include "lmhead/cli/study_table.h"
#include "lmhead/run/program_workers.h"
#include "lmhead/run/run_processes.h"
#include "lmhead/study/study_statistics.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostRuns = 10000;  // handed to a cluster at once, which lets them wait for their turn

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

/// Who carries the runs out, on `device`, which may be several. Processes of this machine come before anything that
/// would give this process threads.
std::unique_ptr<RunWorkers> make_workers(const StudyRequest& request, const std::string& device, std::size_t jobs,
                                         const fs::path& folder) {
  const bool runs_any = !request.dry_run && !request.statistics_only;
  require(request.ray.empty() || device.find(',') == device.npos, "study", "--device must be one with --ray, got ",
          device);
  if (!request.ray.empty() && runs_any)
    return std::make_unique<ProgramWorkers>(python_program("lmhead-ray"), request.ray, folder);
  std::vector<std::string> devices;
  if (device != "cpu" && runs_any) devices = find_devices(device, "study");
  if (devices == std::vector<std::string>{"cpu"}) devices.clear();  // on which runs share the cores
  require(devices.empty() || jobs <= devices.size(), "study", "--jobs must be at most ", devices.size(),
          ", one run on each device, got ", jobs);
  return std::make_unique<RunProcesses>(jobs > 1 ? std::optional(1) : std::nullopt, devices,
                                        fs::read_symlink("/proc/self/exe"));
}

/// What of the study is left to other shards, as one line; nothing where this shard has runs without a row itself.
std::optional<std::string> left_to_others(StudyProgress& progress, const StudyShard& shard) {
  const StudyPlan plan = progress.plan();
  std::size_t others = 0;
  for (const StudyRun& run : plan.runs) {
    if (progress.row_of(run)) continue;
    if (shard.owns(progress.identity_of(run))) return std::nullopt;
    ++others;
  }
  std::string line = "[study] shard " + std::to_string(shard.index) + "/" + std::to_string(shard.count) +
                     " has done its part; " + std::to_string(others) + " runs belong to others";
  if (plan.to_come > 0) line += ", and " + std::to_string(plan.to_come) + " more depend on them";
  return line + ": start again with the rows of all (--rows FOLDER)";
}

}  // namespace

int run_study(const StudyRequest& request) {
  std::vector<std::string> overrides = request.overrides;
  // Of several, each run gets its own.
  if (!request.device.empty())
    overrides.push_back("training.device=" + request.device.substr(0, request.device.find(',')));
  const Study study = read_study(read_json(request.study), overrides);
  const StudyShard shard = request.shard.empty() ? StudyShard() : parse_study_shard(request.shard);
  std::string name = study.name;
  if (shard.count > 1) name += "-shard-" + std::to_string(shard.index) + "-of-" + std::to_string(shard.count);
  const fs::path folder = request.out.empty() ? fs::path("runs") / name : fs::path(request.out);
  const fs::path rows = request.rows.empty() ? folder / "rows.jsonl" : fs::path(request.rows);
  const std::string device = request.device.empty() ? device_of_run(study.base) : request.device;
  const std::size_t jobs = request.jobs.value_or(std::size_t(1 + std::ranges::count(device, ',')));
  const std::unique_ptr<RunWorkers> workers = make_workers(request, device, jobs, folder);
  StudyProgress progress(study, folder, rows);
  if (request.dry_run) {
    print_plan(progress, jobs);
    return 0;
  }

  bool finished = true;
  if (!request.statistics_only) {
    install_stop_handler();
    LiveLine line;
    std::size_t done = 0;
    finished =
        run_study(progress, *workers,
                  {.jobs = request.ray.empty() ? jobs : request.jobs.value_or(kMostRuns),
                   .shard = shard,
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
  if (!stop_requested()) {
    const std::optional<std::string> left = shard.count > 1 ? left_to_others(progress, shard) : std::nullopt;
    if (!left) return 1;
    std::fprintf(stderr, "%s\n", left->c_str());
    return 0;
  }
  std::fprintf(stderr, "stopped and saved; go on with the same command\n");
  return 130;
}

}  // namespace lmhead
