// A study small enough to be run many times over, and workers that need no processes.
#pragma once

#include <gtest/gtest.h>

#include <deque>

#include "lmhead/run/run.h"
#include "lmhead/study/conduct.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {

class StudyTest : public testing::Test {
 protected:
  void SetUp() override { write_dataset(scratch_ / "data"); }
  Json study_json() const {
    Json base = tiny_configuration(scratch_ / "data");
    base["training"]["steps"] = 6;
    base["training"]["validate_every"] = 3;
    base["observe"] = {{"gradient_retention", {{"every", 2}}}};
    return {{"name", "tiny"},
            {"base", base},
            {"arms",
             {{{"name", "full"}, {"set", {{"head.type", "linear"}}}},
              {{"name", "rank 2"}, {"set", {{"head.type", "low_rank"}, {"head.rank", 2}}}}}},
            {"seeds", {0, 3}}};
  }
  Json searching_study_json() const {
    Json json = study_json();
    json["search"] = {{"keys", {{"optimizer.learning_rate", {{"values", {0.01, 0.02, 0.04}}}}}}, {"seeds", {100, 101}}};
    json["comparisons"] = {{{"baseline", "full"}}};
    return json;
  }
  ScratchFolder scratch_;
};

/// Carries runs out in this process, one a call of `wait`, and notes what happened.
class InlineWorkers : public RunWorkers {
 public:
  void start(std::size_t ticket, const Json& configuration, const std::filesystem::path& folder) override {
    waiting_.push_back({ticket, configuration, folder});
    most_at_once = std::max(most_at_once, waiting_.size());
  }
  std::vector<RunEvent> wait() override {
    if (waiting_.empty()) return {};
    const Waiting run = waiting_.front();
    waiting_.pop_front();
    std::vector<RunEvent> events;
    const auto end = [&](RunEnd how, const std::string& error = "") { events.push_back({run.ticket, how, 0, error}); };
    try {
      const bool finished =
          run_training(run.configuration, run.folder,
                       {.on_start = [&](const RunStart& start) { starts.emplace_back(run.folder, start.after_step); },
                        .trainer = {.on_step = [this](const StepRecord&) { ++steps; },
                                    .should_stop = [this] { return should_stop(); }}});
      end(finished ? RunEnd::kFinished : RunEnd::kStopped);
    } catch (const Divergence& error) {
      end(RunEnd::kDiverged, error.what());
    } catch (const std::exception& error) {
      end(RunEnd::kFailed, error.what());
    }
    return events;
  }
  void stop() override { waiting_.clear(); }
  bool should_stop() const { return stop_after >= 0 && steps >= stop_after; }

  int steps = 0, stop_after = -1;
  std::size_t most_at_once = 0;
  std::vector<std::pair<std::filesystem::path, std::int64_t>> starts;  // folder, step before the first
  std::vector<std::string> failures;

  StudyControl control(std::size_t jobs = 1) {
    StudyControl control{.jobs = jobs};
    control.on_failure = [this](const StudyRun&, const std::string& error) { failures.push_back(error); };
    control.should_stop = [this] { return should_stop(); };
    return control;
  }

 private:
  struct Waiting {
    std::size_t ticket;
    Json configuration;
    std::filesystem::path folder;
  };
  std::deque<Waiting> waiting_;
};

}  // namespace lmhead
