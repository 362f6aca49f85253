// Carries a study out: starts the runs that its plan asks for, keeps their rows, goes on where it was
// stopped.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "lmhead/run/run_processes.h"
#include "lmhead/study/plan.h"
#include "lmhead/study/row_store.h"
#include "lmhead/study/study_shard.h"

namespace lmhead {

enum class RunState { kMissing, kStarted, kFinished };

/// A study on disk: its folder, its rows, and what of its plan they make known.
class StudyProgress {
 public:
  /// `rows` is a file or a folder of rows (RowStore), those of other machines too. Nothing is written yet.
  StudyProgress(const Study& study, const std::filesystem::path& folder, const std::filesystem::path& rows);

  const Study& study() const { return study_; }
  const std::filesystem::path& folder() const { return folder_; }
  /// Plans anew from the rows that are there.
  StudyPlan plan();
  RunState state_of(const StudyRun& run);
  /// Null where the run is not finished.
  const RunRow* row_of(const StudyRun& run) { return rows_.find(identity_of(run)); }
  /// Where the data is not there, its content is taken to be what rows of arms with the same `data.path` say, or else
  /// rows of the same configuration, or else what the run in its folder recorded.
  const RunIdentity& identity_of(const StudyRun& run);
  /// Whether the run's folder holds it, finished, on the data of its identity.
  bool is_finished_in_folder(const StudyRun& run);
  RowStore& rows() { return rows_; }
  /// Training FLOPs of the run; 0 where they are not known.
  double flops_of(const StudyRun& run);

 private:
  const Study& study_;
  std::filesystem::path folder_;
  StudyPlanner planner_;
  RunIdentities identities_;
  RowStore rows_;
  std::map<std::string, RunIdentity> absent_;  // by folder: runs whose data is not there
  std::vector<Json> arm_paths_;                // data.path of every arm, once data was not there
};

/// What there is to tell while a study runs.
struct StudyStatus {
  std::size_t done = 0, known = 0, failed = 0;  // runs; `known` counts those that will follow for sure
  double seconds_left = 0;                      // NaN while no run has given a speed
  struct Going {
    const StudyRun* run;
    std::int64_t step, steps;
  };
  std::vector<Going> going;
};

struct StudyControl {
  std::size_t jobs = 1;
  StudyShard shard;           // whose runs alone are started
  bool discard_runs = false;  // delete a run's folder once its row is written
  std::function<void(const StudyStatus&)> on_status = [](const StudyStatus&) {};
  std::function<void(const StudyRun& run, const std::string& error)> on_failure = [](const StudyRun&,
                                                                                     const std::string&) {};
  std::function<bool()> should_stop = [] { return false; };
};

/// Carries out what of its shard is not finished, `jobs` runs at once, and takes over what other studies add to the
/// rows meanwhile. True when every run is finished; a run that fails costs only itself and what needs it. A run that
/// diverges is finished. Writes study.json at the start and results.jsonl at the end. Throws, before anything is
/// trained, where another process conducts the study in this folder or rows cannot be kept; and where a row cannot be
/// written (a full disk): the run's folder stays, and the next start makes its row.
bool run_study(StudyProgress& progress, RunWorkers& workers, const StudyControl& control);

/// Training FLOPs of all runs known now that are not finished, and the seconds that they take at the speed of
/// finished rows with one job (NaN where there are none).
struct RemainingCost {
  double flops = 0, seconds = 0;
  std::size_t unknown = 0;  // runs whose data, and so whose vocabulary, cannot be read
};
RemainingCost remaining_cost(StudyProgress& progress, const StudyPlan& plan);

}  // namespace lmhead
