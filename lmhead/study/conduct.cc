#include "lmhead/study/conduct.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/base/folder_lock.h"
#include "lmhead/run/cost.h"
#include "lmhead/study/finished_run.h"
#include "lmhead/study/long_form_results.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::int64_t steps_of(const StudyRun& run) { return run.configuration.at("training").at("steps").get<std::int64_t>(); }

/// Seconds a floating-point operation, over what is finished; NaN where nothing is.
struct Speed {
  double seconds = 0, flops = 0;
  double seconds_per_flop() const { return flops > 0 ? seconds / flops : std::nan(""); }
  void add(double more_seconds, double more_flops) {
    if (more_flops > 0) seconds += more_seconds, flops += more_flops;
  }
};

/// One call of run_study.
class Conductor {
 public:
  Conductor(StudyProgress& progress, RunWorkers& workers, const StudyControl& control)
      : progress_(progress), workers_(workers), control_(control) {
    progress.rows().refresh();
    plan_ = progress.plan();
  }

  bool conduct() {
    adopt_finished_folders();
    bool stopping = false;
    while (true) {
      if (!stopping && control_.should_stop()) {
        stopping = true;
        workers_.stop();
      }
      if (progress_.rows().refresh()) plan_ = progress_.plan();
      if (!stopping) start_ready();
      control_.on_status(status());
      if (going_.empty()) break;
      for (const RunEvent& event : workers_.wait()) handle(event);
    }
    write_long_form_results(progress_, [&](const StudyRun& run, const std::string& error) { fail_run(run, error); });
    return !stopping && failed_.empty() && plan_.to_come == 0 &&
           std::all_of(plan_.runs.begin(), plan_.runs.end(),
                       [&](const StudyRun& run) { return progress_.row_of(run); });
  }

 private:
  struct Going {
    StudyRun run;
    std::int64_t first_step = 0, step = 0;
    Clock::time_point start = Clock::now();
  };

  /// Runs that finished just before a kill, or before there were rows.
  void adopt_finished_folders() {
    bool found = true;
    while (found) {  // a row may make further runs known
      found = false;
      for (const StudyRun& run : plan_.runs) {
        if (failed_.count(run.folder) || progress_.row_of(run) || !progress_.is_finished_in_folder(run)) continue;
        found |= keep_row(run, [&](const fs::path& folder) {
          return row_of_finished_run(progress_.study(), run, progress_.identity_of(run), folder);
        });
      }
      if (found) plan_ = progress_.plan();
    }
  }

  /// False where the run's figures could not be read. Throws where the row could not be kept: then the folder stays.
  bool keep_row(const StudyRun& run, const std::function<RunRow(const fs::path& folder)>& make_row) {
    const fs::path folder = progress_.folder() / run.folder;
    std::optional<RunRow> row;
    try {
      row = make_row(folder);
    } catch (const Error& error) {
      fail_run(run, error.what());
      return false;
    }
    progress_.rows().append(*row);
    std::error_code ignored;
    if (control_.discard_runs) fs::remove_all(folder, ignored);
    return true;
  }

  void fail_run(const StudyRun& run, const std::string& error) {
    failed_.insert(run.folder);
    control_.on_failure(run, error);
  }

  /// Two runs are one where nothing that could change a figure differs.
  bool is_going(const StudyRun& run) {
    const RunIdentity& identity = progress_.identity_of(run);
    return std::any_of(going_.begin(), going_.end(), [&](const auto& entry) {
      const RunIdentity& other = progress_.identity_of(entry.second.run);
      return other.configuration == identity.configuration && other.dataset == identity.dataset;
    });
  }

  void start_ready() {
    for (const StudyRun& run : plan_.runs) {
      if (going_.size() >= control_.jobs) return;
      if (failed_.count(run.folder) || progress_.row_of(run) || is_going(run)) continue;
      if (!control_.shard.owns(progress_.identity_of(run))) continue;
      workers_.start(next_ticket_, run.configuration, progress_.folder() / run.folder);
      going_.emplace(next_ticket_++, Going{run});
    }
  }

  void handle(const RunEvent& event) {
    Going& going = going_.at(event.ticket);
    if (!event.end) {
      if (going.step == 0) going.first_step = event.step;
      going.step = event.step;
      return;
    }
    const Going done = std::move(going);
    going_.erase(event.ticket);
    if (*event.end == RunEnd::kFailed) return fail_run(done.run, event.error);
    if (*event.end == RunEnd::kStopped) return;
    const double share = double(steps_of(done.run) - done.first_step) / double(steps_of(done.run));
    const bool diverged = *event.end == RunEnd::kDiverged;
    if (!diverged)
      speed_.add(std::chrono::duration<double>(Clock::now() - done.start).count(),
                 progress_.flops_of(done.run) * share);
    const bool kept = keep_row(done.run, [&](const fs::path& folder) {
      const Study& study = progress_.study();
      const RunIdentity& identity = progress_.identity_of(done.run);
      return diverged ? row_of_diverged_run(study, done.run, identity, folder, event.error)
                      : row_of_finished_run(study, done.run, identity, folder);
    });
    if (kept) plan_ = progress_.plan();
  }

  StudyStatus status() {
    StudyStatus status;
    status.known = plan_.runs.size() + std::size_t(plan_.to_come);
    status.failed = failed_.size();
    double flops = 0, known_flops = 0;
    for (const StudyRun& run : plan_.runs) {
      known_flops += progress_.flops_of(run);
      if (progress_.row_of(run)) ++status.done;
      else if (!failed_.count(run.folder)) flops += progress_.flops_of(run);
    }
    // What is not known yet costs about what the rest costs.
    flops += double(plan_.to_come) * known_flops / double(std::max<std::size_t>(1, plan_.runs.size()));
    for (const auto& [ticket, going] : going_) {
      flops -= progress_.flops_of(going.run) * double(going.step) / double(steps_of(going.run));
      status.going.push_back({&going.run, going.step, steps_of(going.run)});
    }
    Speed speed = speed_;
    for (const auto& [ticket, going] : going_)  // until one is done, those that go on tell
      if (speed_.flops == 0 && going.step > going.first_step)
        speed.add(std::chrono::duration<double>(Clock::now() - going.start).count(),
                  progress_.flops_of(going.run) * double(going.step - going.first_step) / double(steps_of(going.run)));
    status.seconds_left = std::max(0.0, flops) * speed.seconds_per_flop() /
                          double(std::min(control_.jobs, std::max<std::size_t>(1, going_.size())));
    return status;
  }

  StudyProgress& progress_;
  RunWorkers& workers_;
  const StudyControl& control_;
  StudyPlan plan_;
  std::map<std::size_t, Going> going_;  // by ticket
  std::size_t next_ticket_ = 0;
  std::set<std::string> failed_;  // folders; tried again when the study is started again
  Speed speed_;
};

}  // namespace

StudyProgress::StudyProgress(const Study& study, const fs::path& folder, const fs::path& rows)
    : study_(study), folder_(folder), planner_(study), rows_(study, rows) {}

StudyPlan StudyProgress::plan() {
  return planner_.plan([&](const StudyRun& run) -> std::optional<double> {
    const RunRow* row = row_of(run);
    return row ? std::optional(outcome_of(*row)) : std::nullopt;
  });
}

const RunIdentity& StudyProgress::identity_of(const StudyRun& run) {
  const RunIdentity& identity = identities_.of(run);
  if (identity.dataset) return identity;
  const auto known = absent_.find(run.folder);
  if (known != absent_.end()) return known->second;
  const auto path_of = [](const Json& configuration) { return configuration.at("data").at("path"); };
  if (arm_paths_.empty())
    for (const StudyArm& arm : study_.arms) arm_paths_.push_back(path_of(configuration_of(study_, arm, {}, run.seed)));
  std::vector<std::string> arms;
  for (std::size_t arm = 0; arm < arm_paths_.size(); ++arm)
    if (arm_paths_[arm] == path_of(run.configuration)) arms.push_back(study_.arms[arm].name);
  RunIdentity assumed = identity;
  assumed.dataset = rows_.dataset_of(identity.configuration, arms);
  if (const fs::path folder = folder_ / run.folder; !assumed.dataset && is_finished(folder, run.configuration))
    assumed.dataset = inputs_of_run(folder).dataset;
  return absent_.emplace(run.folder, std::move(assumed)).first->second;
}

bool StudyProgress::is_finished_in_folder(const StudyRun& run) {
  const fs::path folder = folder_ / run.folder;
  if (!is_finished(folder, run.configuration)) return false;
  const RunInputs inputs = inputs_of_run(folder);
  const RunIdentity& identity = identity_of(run);
  return inputs.dataset == identity.dataset && inputs.files == identity.files;
}

RunState StudyProgress::state_of(const StudyRun& run) {
  if (row_of(run) || is_finished_in_folder(run)) return RunState::kFinished;
  return fs::exists(folder_ / run.folder / "config.json") ? RunState::kStarted : RunState::kMissing;
}

double StudyProgress::flops_of(const StudyRun& run) {
  const auto per_token = identity_of(run).flops_per_token;
  if (!per_token) return 0;
  const Json &training = run.configuration["training"], &data = run.configuration["data"];
  return *per_token * training["steps"].get<double>() * data["batch_size"].get<double>() *
         data["sequence_length"].get<double>();
}

bool run_study(StudyProgress& progress, RunWorkers& workers, const StudyControl& control) {
  // Children inherit it, so that runs that still save keep the next study out.
  const FolderLock lock(progress.folder(), "study", "conducts a study");
  make_directory(progress.folder() / "runs");
  progress.rows().prepare_to_append();
  write_file_atomic(progress.folder() / "study.json", progress.study().json.dump(2) + "\n");
  return Conductor(progress, workers, control).conduct();
}

RemainingCost remaining_cost(StudyProgress& progress, const StudyPlan& plan) {
  RemainingCost cost;
  Speed speed;
  for (const StudyRun& run : plan.runs) {
    const RunRow* row = progress.row_of(run);
    if (!row) cost.flops += progress.flops_of(run);
    if (!row && !progress.identity_of(run).flops_per_token) ++cost.unknown;
    if (row && row->wall_seconds && row->flops) speed.add(*row->wall_seconds, *row->flops);
  }
  cost.seconds = cost.flops * speed.seconds_per_flop();
  return cost;
}

}  // namespace lmhead
