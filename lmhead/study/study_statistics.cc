#include "lmhead/study/study_statistics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "lmhead/study/arm_comparisons.h"
#include "lmhead/study/arm_summary.h"
#include "lmhead/study/confirmed_rows.h"
#include "lmhead/study/correlations.h"
#include "lmhead/study/equal_cost.h"
#include "lmhead/study/long_form_results.h"
#include "lmhead/study/statistics_json.h"
#include "lmhead/study/study_fit.h"

namespace lmhead {
namespace {

class StudyReader {
 public:
  explicit StudyReader(StudyProgress& progress)
      : progress_(progress), study_(progress.study()), confirmed_(confirmed_rows(progress)) {}

  Json read() {
    Json all = {{"format", "lmhead-study-statistics"},
                {"version", 1},
                {"study", study_.name},
                {"description", study_.description},
                {"source", study_.source},
                {"limits", study_.limits},
                {"outcome", study_.outcome},
                {"unit", unit_of(study_.outcome)},
                {"higher_is_better", study_.higher_is_better},
                {"margin", number_or_null(study_.margin)},
                {"seeds", study_.seeds},
                {"against", study_.against},
                {"configuration", study_hash()}};
    all["runs"] = runs();
    all["arms"] = Json::array();
    for (std::size_t arm = 0; arm < study_.arms.size(); ++arm) all["arms"].push_back(arm_summary(confirmed_, arm));
    all["comparisons"] = arm_comparisons(confirmed_);
    all["correlations"] = study_correlations(progress_, confirmed_.plan);
    for (const FitRequest& request : study_.fits) all["fits"].push_back(fit_points(confirmed_, request));
    all["reach"] = reach();
    return all;
  }

 private:
  /// Of what is asked, not of how it is described or where its data lies.
  std::string study_hash() const {
    Json json = study_.json;
    for (const char* key : {"description", "source", "limits", "details", "against"}) json.erase(key);
    if (json["base"].contains("data") && json["base"]["data"].is_object()) json["base"]["data"].erase("path");
    return hash_of_values(json);
  }

  /// How many runs each of them trained steps of; "unknown" of rows that do not say.
  struct Trainers {
    std::map<std::string, std::size_t> commits, processors;
    bool is_any_known = false;
    void add(const RunRow& row) {
      std::set<std::string> commits_of_run, processors_of_run;
      for (const TrainedBy& one : row.trained_by) {
        commits_of_run.insert(one.commit);
        processors_of_run.insert(one.processor.empty() ? kUnknown : one.processor);
      }
      if (row.trained_by.empty()) commits_of_run = processors_of_run = {kUnknown};
      for (const std::string& commit : commits_of_run) ++commits[commit];
      for (const std::string& processor : processors_of_run) ++processors[processor];
      is_any_known |= !row.trained_by.empty();
    }
    static constexpr const char* kUnknown = "unknown";
  };

  Json runs() {
    double wall = 0, measure = 0, flops = 0;
    std::size_t finished = 0, diverged = 0, missing = 0;
    std::set<const RunRow*> counted;
    std::set<std::string> datasets, versions;
    std::set<std::int64_t> threads;
    Trainers trainers;
    for (const StudyRun& run : confirmed_.plan.runs) {
      const RunRow* row = progress_.row_of(run);
      missing += row == nullptr;
      if (!row || !counted.insert(row).second) continue;  // two arms may share a run
      ++finished;
      diverged += row->diverged;
      wall += row->wall_seconds.value_or(0);
      measure += row->measure_seconds.value_or(0);
      flops += row->flops.value_or(0);
      if (row->dataset) datasets.insert(*row->dataset);
      if (row->version) versions.insert(*row->version);
      if (row->threads) threads.insert(*row->threads);
      trainers.add(*row);
    }
    Json json = {{"known", finished + missing + std::size_t(confirmed_.plan.to_come)},
                 {"finished", finished},
                 {"diverged", diverged},
                 {"wall_seconds", number_or_null(wall)},
                 {"measure_seconds", number_or_null(measure)},
                 {"flops", number_or_null(flops)},
                 {"datasets", datasets},
                 {"versions", versions},
                 {"threads", threads}};
    if (trainers.is_any_known) json["commits"] = trainers.commits, json["processors"] = trainers.processors;
    return json;
  }

  /// Per place of the grid: how much cheaper than the reference each arm reaches the reference's final
  /// outcome.
  Json reach() const {
    std::vector<KeyValues> places;
    for (const StudyArm& arm : study_.arms)
      if (std::find(places.begin(), places.end(), arm.grid) == places.end()) places.push_back(arm.grid);
    Json list = Json::array();
    for (const KeyValues& place : places) {
      std::vector<std::size_t> arms;
      for (std::size_t arm = 0; arm < study_.arms.size(); ++arm)
        if (study_.arms[arm].grid == place && !confirmed_.rows[arm].empty()) arms.push_back(arm);
      const auto reference = reference_of(arms);
      if (arms.size() < 2 || !reference) continue;
      for (const std::size_t arm : arms)
        if (arm != *reference) {
          Json one = {{"arm", study_.arms[arm].name}, {"reference", study_.arms[*reference].name}};
          one.update(cost_ratios(confirmed_.rows[arm], confirmed_.rows[*reference], study_.higher_is_better));
          list.push_back(one);
        }
    }
    return list;
  }

  std::optional<std::size_t> reference_of(const std::vector<std::size_t>& arms) const {
    std::optional<std::size_t> reference;
    double worst = -std::numeric_limits<double>::infinity();
    for (const std::size_t arm : arms) {
      if (study_.reach != "worst") {
        if (study_.arms[arm].choice == study_.reach) return arm;
        continue;
      }
      double sum = 0;
      for (const auto& [seed, row] : confirmed_.rows[arm]) sum += outcome_of(*row);
      const double harm = (study_.higher_is_better ? -1 : 1) * sum / double(confirmed_.rows[arm].size());
      if (std::isfinite(harm) && harm > worst) worst = harm, reference = arm;
    }
    return reference;
  }

  StudyProgress& progress_;
  const Study& study_;
  ConfirmedRows confirmed_;
};

}  // namespace

Json study_statistics(StudyProgress& progress) { return StudyReader(progress).read(); }

}  // namespace lmhead
