// Rows say what they are of, whoever else works with them: other data, other outcomes, other studies, full disks.
#include <sys/resource.h>

#include <csignal>
#include <functional>
#include <set>
#include <utility>

#include "lmhead/study/study_statistics.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using StudyRows = StudyTest;

TEST_F(StudyRows, HoldTheDataThatTheRunRecorded) {
  const Study study = read_study(study_json(), {});
  const fs::path folder = scratch_ / "study", rows = folder / "rows.jsonl";
  InlineWorkers first;
  StudyProgress before(study, folder, rows);
  ASSERT_TRUE(run_study(before, first, first.control()));
  fs::rename(rows, scratch_ / "kept.jsonl");

  // The finished folders are of data that is no longer there: they are neither adopted nor trained on.
  write_dataset(scratch_ / "data", "other content");
  InlineWorkers second;
  StudyProgress after(study, folder, rows);
  EXPECT_EQ(after.state_of(after.plan().runs[0]), RunState::kStarted);
  EXPECT_FALSE(run_study(after, second, second.control()));
  EXPECT_EQ(second.steps, 0);
  EXPECT_TRUE(RowFile(rows).rows().empty());
  ASSERT_EQ(second.failures.size(), 4u);
  EXPECT_NE(second.failures[0].find("must come from the same dataset content, got other content"), std::string::npos)
      << second.failures[0];

  // Without data there is what the runs recorded.
  fs::remove_all(scratch_ / "data");
  InlineWorkers third;
  StudyProgress absent(study, folder, rows);
  EXPECT_TRUE(run_study(absent, third, third.control()));
  const RowFile adopted(rows);
  for (const RunRow& row : adopted.rows()) EXPECT_EQ(row.dataset, "content");
  EXPECT_EQ(adopted.rows().size(), 4u);
}

TEST_F(StudyRows, AreOfTheContentOfFilesThatRunsBeginFrom) {
  const auto checkpoint_of = [&](std::int64_t seed) {
    Json json = study_json()["base"];
    json["training"]["seed"] = seed;
    json["training"]["steps"] = 1;
    const fs::path folder = scratch_ / ("begun" + std::to_string(seed));
    run_training(json, folder, {});
    return folder / "checkpoints" / "step-00000001" / "model.safetensors";
  };
  const fs::path first = checkpoint_of(1), second = checkpoint_of(2);
  const std::pair<const char*, Json> cases[] = {
      {"/training/initial_weights", Json::object()},
      {"/head/weights", {{"head", {{"type", "two_level"}, {"by", "kmeans"}, {"classes", 4}}}}}};
  for (const auto& [key, base] : cases) {
    const fs::path place_of_case = scratch_ / std::to_string(key[1]);
    fs::create_directories(place_of_case);
    const auto place = [&](const fs::path& weights, const char* name) {
      fs::copy_file(weights, place_of_case / name, fs::copy_options::overwrite_existing);
      return (place_of_case / name).string();
    };
    Json json = study_json();
    json.erase("arms");
    json["seeds"] = {0};
    json["base"].update(base);
    if (base.contains("head")) json["base"]["observe"] = Json::object();  // of linear maps alone
    const fs::path rows = place_of_case / "rows.jsonl";
    const auto conduct = [&](const std::string& weights, const char* folder, bool finishes = true) {
      json["base"][Json::json_pointer(key)] = weights;
      const Study study = read_study(json, {});
      InlineWorkers workers;
      StudyProgress progress(study, place_of_case / folder, rows);
      EXPECT_EQ(run_study(progress, workers, workers.control()), finishes);
      return std::pair(workers.steps, workers.failures);
    };
    EXPECT_EQ(conduct(place(first, "a"), "one").first, 6);
    EXPECT_EQ(conduct(place(first, "b"), "two").first, 0);     // the same, elsewhere
    EXPECT_EQ(conduct(place(second, "a"), "three").first, 6);  // another under the same name
    const RowFile all(rows);
    ASSERT_EQ(all.rows().size(), 2u);
    EXPECT_NE(all.rows()[0].configuration, all.rows()[1].configuration);

    // The folder of a run that began from what is no longer there is not taken for one that began from what is.
    fs::remove(rows);
    const auto [steps, failures] = conduct((place_of_case / "a").string(), "one", /*finishes=*/false);
    EXPECT_EQ(steps, 0);
    ASSERT_EQ(failures.size(), 1u);
    std::string name = key + 1;
    name[name.find('/')] = '.';
    EXPECT_NE(failures[0].find("must have read what " + name + " holds now"), std::string::npos) << failures[0];
  }
}

/// Changes the data while the study runs.
class ReplacingWorkers : public InlineWorkers {
 public:
  explicit ReplacingWorkers(fs::path data) : data_(std::move(data)) {}
  std::vector<RunEvent> wait() override {
    if (steps == 6) write_dataset(data_, "other content");
    return InlineWorkers::wait();
  }

 private:
  fs::path data_;
};

TEST_F(StudyRows, AreRefusedForARunOnDataThatCameMeanwhile) {
  const Study study = read_study(study_json(), {});
  ReplacingWorkers workers(scratch_ / "data");
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  EXPECT_FALSE(run_study(progress, workers, workers.control()));
  EXPECT_EQ(RowFile(scratch_ / "rows.jsonl").rows().size(), 1u);
  ASSERT_EQ(workers.failures.size(), 3u);
  EXPECT_NE(workers.failures[0].find("must have been trained on what data.path holds now, content"), std::string::npos)
      << workers.failures[0];
}

TEST_F(StudyRows, AreNeverRelabelledByAnotherOutcome) {
  Json json = study_json();
  json["comparisons"] = {{{"baseline", "full"}}};
  const fs::path rows = scratch_ / "rows.jsonl";
  const auto conduct = [&](const char* outcome, InlineWorkers& workers) {
    json["outcome"] = outcome;
    const Study study = read_study(json, {});
    StudyProgress progress(study, scratch_ / "study", rows);
    EXPECT_TRUE(run_study(progress, workers, workers.control()));
    return study_statistics(progress);
  };
  InlineWorkers first, second, third;
  const Json loss = conduct("validation.loss", first);
  const Json accuracy = conduct("validation.top1_accuracy", second);
  EXPECT_EQ(second.steps, 0);
  EXPECT_EQ(RowFile(rows).rows().size(), 4u);
  for (std::size_t arm = 0; arm < 2; ++arm) {
    const Json& one = accuracy["arms"][arm];
    EXPECT_EQ(one["mean"], loss["arms"][arm]["figures"]["validation.top1_accuracy"]);
    EXPECT_LE(one["mean"].get<double>(), 1);
    EXPECT_TRUE(one["curve"]["tokens"].empty());
  }
  EXPECT_EQ(accuracy["comparisons"][0]["equal_steps"]["left_out"], Json({0, 3}));
  EXPECT_EQ(conduct("validation.loss", third), loss);

  // A figure that the rows do not have needs the runs, whose folders are there.
  InlineWorkers fourth;
  const Json speed = conduct("peak_memory_bytes", fourth);
  EXPECT_EQ(fourth.steps, 0);
  EXPECT_GT(speed["arms"][0]["mean"].get<double>(), 1e6);
  EXPECT_EQ(RowFile(rows).rows().size(), 8u);
}

/// Lets another study of the same runs go from start to end while the first run of this one is going.
class MeddlingWorkers : public InlineWorkers {
 public:
  std::function<void()> meddle;
  void start(std::size_t ticket, const Json& configuration, const fs::path& folder) override {
    InlineWorkers::start(ticket, configuration, folder);
    if (meddle) std::exchange(meddle, nullptr)();
  }
};

TEST_F(StudyRows, OfTwoStudiesAtOnceAreThereOnce) {
  const Study study = read_study(study_json(), {});
  const fs::path rows = scratch_ / "rows.jsonl";
  StudyProgress one(study, scratch_ / "one", rows), other(study, scratch_ / "other", rows);
  InlineWorkers quick;
  MeddlingWorkers slow;
  slow.meddle = [&] { EXPECT_TRUE(run_study(other, quick, quick.control())); };
  EXPECT_TRUE(run_study(one, slow, slow.control()));
  EXPECT_EQ(quick.steps, 4 * 6);
  EXPECT_EQ(slow.steps, 6);  // the run that was going; the others came from the other study
  std::set<std::string> runs;
  const RowFile all(rows);
  for (const RunRow& row : all.rows()) EXPECT_TRUE(runs.insert(row.configuration).second);
  EXPECT_EQ(runs.size(), 4u);
}

TEST_F(StudyRows, ThatCannotBeKeptAreFoundOutBeforeAnythingIsTrained) {
  const Study study = read_study(study_json(), {});
  write_text(scratch_ / "file", "");
  for (const char* rows : {"file/rows.jsonl", "file/rows/"}) {
    InlineWorkers workers;
    EXPECT_ERROR(
        {
          StudyProgress progress(study, scratch_ / "study", scratch_ / rows);
          run_study(progress, workers, workers.control());
        },
        "must be");
    EXPECT_EQ(workers.steps, 0);
  }
}

/// A disk that is full once the rows file has `bytes`, from the end of the first run on.
class FullDiskWorkers : public InlineWorkers {
 public:
  explicit FullDiskWorkers(rlim_t bytes) : bytes_(bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  ~FullDiskWorkers() override {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  std::vector<RunEvent> wait() override {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    const std::vector<RunEvent> events = InlineWorkers::wait();
    rlimit limit = before_;
    limit.rlim_cur = bytes_;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    return events;
  }

 private:
  rlim_t bytes_;
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(StudyRows, AreNeverTornByAFullDiskAndItsRunsNeverDiscarded) {
  const Study study = read_study(study_json(), {});
  const fs::path rows = scratch_ / "rows.jsonl";
  std::size_t row_size;
  {
    InlineWorkers whole;
    StudyProgress progress(study, scratch_ / "whole", scratch_ / "whole.jsonl");
    ASSERT_TRUE(run_study(progress, whole, whole.control()));
    row_size = fs::file_size(scratch_ / "whole.jsonl") / 4;
  }
  {
    FullDiskWorkers workers(row_size * 3 / 2);  // within the second row
    StudyProgress progress(study, scratch_ / "study", rows);
    StudyControl discarding = workers.control();
    discarding.discard_runs = true;
    EXPECT_ERROR(run_study(progress, workers, discarding), "rows.jsonl must be writable");
    EXPECT_EQ(workers.steps, 2 * 6);
  }
  EXPECT_EQ(RowFile(rows).rows().size(), 1u);
  EXPECT_EQ(read_file(rows).back(), '\n');

  InlineWorkers resumed;
  StudyProgress rest(study, scratch_ / "study", rows);
  EXPECT_TRUE(run_study(rest, resumed, resumed.control()));
  EXPECT_EQ(resumed.steps, 2 * 6);  // the second run's folder was still there
  EXPECT_EQ(RowFile(rows).rows().size(), 4u);
}

TEST_F(StudyRows, ThatAreNoneAreRefusedByFileAndLine) {
  const Study study = read_study(study_json(), {});
  InlineWorkers workers;
  const fs::path rows = scratch_ / "rows.jsonl";
  StudyProgress progress(study, scratch_ / "study", rows);
  ASSERT_TRUE(run_study(progress, workers, workers.control()));
  const std::string whole = read_file(rows);
  std::string wrong = whole;
  const std::size_t second = wrong.find('\n') + 1;
  wrong.replace(wrong.find("\"diverged\":false", second), 16, "\"diverged\":1e308");
  write_text(rows, wrong);
  EXPECT_ERROR(StudyProgress(study, scratch_ / "study", rows),
               rows.string() + ":2] diverged must be true or false, got 1e+308");
  write_text(rows, whole.substr(0, 20) + whole);  // as a full disk left it before rows were cut back
  EXPECT_ERROR(StudyProgress(study, scratch_ / "study", rows), rows.string() + ":1] must be valid JSON");
}

}  // namespace
}  // namespace lmhead
