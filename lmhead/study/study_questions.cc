#include "lmhead/study/study_questions.h"

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/study/study_fit.h"
#include "lmhead/study/study_json.h"

namespace lmhead {
namespace {

/// Every comparison at every place of the grid, each pair once.
std::vector<Comparison> read_comparisons(const Study& study, const Json& json) {
  std::vector<Comparison> comparisons;
  const auto add = [&](const std::string& baseline, const std::vector<std::string>* arms) {
    for (std::size_t b = 0; b < study.arms.size(); ++b)
      for (std::size_t a = 0; a < study.arms.size(); ++a) {
        const StudyArm &left = study.arms[b], &right = study.arms[a];
        if (left.choice != baseline || right.choice == baseline || left.grid != right.grid) continue;
        if (arms && std::find(arms->begin(), arms->end(), right.choice) == arms->end()) continue;
        comparisons.push_back({b, a});
      }
  };
  for (const Json& item : typed(json, "comparisons", Json::value_t::array, "a list of comparisons")) {
    check_keys(typed(item, "a comparison", Json::value_t::object, "an object"), "comparisons.", {"baseline", "arms"});
    const std::string baseline =
        member(item, "baseline", Json::value_t::string, "the name of an arm").get<std::string>();
    check_choice(study, baseline, "comparisons.baseline");
    if (!item.contains("arms")) {
      add(baseline, nullptr);
      continue;
    }
    const auto arms = read_texts(item["arms"], "comparisons.arms");
    for (const std::string& arm : arms) check_choice(study, arm, "comparisons.arms");
    add(baseline, &arms);
  }
  return comparisons;
}

CorrelationRequest read_correlation(const Json& json) {
  check_keys(typed(json, "correlations", Json::value_t::object, "a list of objects"), "correlations.",
             {"outcome", "predictors", "at_step", "given", "within", "margin"});
  CorrelationRequest request;
  const std::string outcome = text_member(json, "outcome", "final");
  require(outcome == "final" || outcome == "progress", "study",
          "correlations.outcome must be \"final\" or \"progress\", got \"", outcome, '"');
  request.of_progress = outcome == "progress";
  if (json.contains("predictors")) request.predictors = read_texts(json["predictors"], "correlations.predictors");
  require(!request.predictors.empty(), "study", "correlations.predictors must name at least one figure, got none");
  const Json step = json.value("at_step", Json());
  require(step.is_number_integer() && step >= 1, "study", "correlations.at_step must be an integer of at least 1, got ",
          step.dump());
  request.at_step = step.get<std::int64_t>();
  if (json.contains("given")) request.given = read_texts(json["given"], "correlations.given");
  if (json.contains("within")) request.within = read_texts(json["within"], "correlations.within");
  if (json.contains("margin")) request.margin = read_number(json["margin"], "correlations.margin", 0);
  return request;
}

/// What is held fixed must be there to be read, and what predicts must come before what is predicted.
void check_correlation(const Study& study, const CorrelationRequest& request) {
  std::vector<Json> configurations;
  for (const StudyArm& arm : study.arms)
    configurations.push_back(configuration_of(study, arm, {}, study.seeds.front()));
  for (const Json& configuration : configurations)
    require(request.at_step < configuration["training"]["steps"], "study",
            "correlations.at_step must be below training.steps of every arm, got ", request.at_step);
  for (const std::string& key : request.given)
    for (const Json& configuration : configurations) {
      const Json* value = find_value(configuration, key);
      require(value && value->is_number(), "study",
              "correlations.given must be keys of numbers in every arm's configuration, got \"", key, '"');
    }
  for (const std::string& key : request.within)
    require(std::any_of(configurations.begin(), configurations.end(),
                        [&](const Json& configuration) { return find_value(configuration, key) != nullptr; }),
            "study", "correlations.within must be keys of some arm's configuration, got \"", key, '"');
}

}  // namespace

void check_choice(const Study& study, const std::string& name, const std::string& where) {
  std::vector<std::string> known;
  for (const StudyArm& arm : study.arms) known.push_back(arm.choice);
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  const std::string nearest = nearest_word(name, known);
  fail("study", where, " must be the name of an arm, got \"", name, '"',
       nearest.empty() ? "" : ", did you mean " + nearest + "?");
}

void read_questions(const Json& json, Study& study) {
  if (json.contains("comparisons")) study.comparisons = read_comparisons(study, json["comparisons"]);
  const auto keep = [&](const std::string& path) {
    if (std::find(study.keep.begin(), study.keep.end(), path) == study.keep.end()) study.keep.push_back(path);
  };
  if (json.contains("fits"))
    for (const Json& item : member(json, "fits", Json::value_t::array, "a list of objects")) {
      study.fits.push_back(read_fit(item, study));
      for (const std::string& path : study.fits.back().keep) keep(path);
    }
  if (!json.contains("correlations")) return;
  for (const Json& item : member(json, "correlations", Json::value_t::array, "a list of objects")) {
    study.correlations.push_back(read_correlation(item));
    check_correlation(study, study.correlations.back());
    for (const std::string& predictor : study.correlations.back().predictors) keep(predictor);
  }
}

void check_source(const Study& study) {
  if (study.source.is_null()) return;
  check_keys(typed(study.source, "source", Json::value_t::object, "an object"), "source.",
             {"paper", "claim", "reported", "expected_sign"});
  for (const char* key : {"paper", "claim"}) text_member(study.source, key, "");
  if (study.source.contains("reported"))
    for (const Json& item : typed(study.source["reported"], "source.reported", Json::value_t::array, "a list")) {
      check_keys(typed(item, "source.reported", Json::value_t::object, "a list of objects"), "source.reported.",
                 {"arm", "baseline", "difference", "interval", "note"});
      check_choice(study, member(item, "arm", Json::value_t::string, "the name of an arm").get<std::string>(),
                   "source.reported.arm");
      if (item.contains("baseline")) check_choice(study, text_member(item, "baseline", ""), "source.reported.baseline");
      text_member(item, "note", "");
      require(item.contains("difference") && item["difference"].is_number(), "study",
              "source.reported.difference must be a number in every entry");
      if (!item.contains("interval")) continue;
      const Json& ends = item["interval"];
      require(ends.is_array() && ends.size() == 2 && ends[0].is_number() && ends[1].is_number(), "study",
              "source.reported.interval must be two numbers, got ", ends.dump());
    }
  if (!study.source.contains("expected_sign")) return;
  for (const auto& item :
       typed(study.source["expected_sign"], "source.expected_sign", Json::value_t::object, "an object").items()) {
    check_choice(study, item.key(), "source.expected_sign");
    require(item.value() == "+" || item.value() == "-" || item.value() == "0", "study", "source.expected_sign.",
            item.key(), " must be \"+\", \"-\" or \"0\", got ", item.value().dump());
  }
}

}  // namespace lmhead
