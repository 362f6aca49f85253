#include "lmhead/study/study_fit.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/study/long_form_results.h"
#include "lmhead/study/statistics_json.h"
#include "lmhead/study/study_json.h"

namespace lmhead {
namespace {

constexpr std::size_t kFewestSeeds = 2;  // below, nothing says how far a place's mean is from another draw of it

/// A size of a run, by the name that a study file has for it, and what of the run's summary it is made from.
struct Size {
  const char* name;
  std::vector<std::string> kept;
  double (*of)(const RunRow& row, const std::vector<double>& kept);
};

const std::vector<Size>& sizes() {
  static const std::vector<Size> all = {
      {"V", {"vocab_size"}, [](const RunRow&, const std::vector<double>& kept) { return kept[0]; }},
      {"D", {"hidden_size"}, [](const RunRow&, const std::vector<double>& kept) { return kept[0]; }},
      {"body_parameters",
       {"parameters_body", "vocab_size", "hidden_size"},
       [](const RunRow&, const std::vector<double>& kept) { return kept[0] - kept[1] * kept[2]; }},
      {"tokens", {}, [](const RunRow& row, const std::vector<double>&) { return double(row.tokens.value_or(0)); }},
  };
  return all;
}

const Size& size_named(const std::string& name, const std::string& predictor) {
  for (const Size& size : sizes())
    if (name == size.name) return size;
  std::vector<std::string> known;
  for (const Size& size : sizes()) known.push_back(size.name);
  const std::string nearest = nearest_word(name, known);
  fail("study",
       "fits.predictors must be V, D, body_parameters, tokens or a ratio of two, as they are or in log2(...), got ",
       quote_for_message(predictor), nearest.empty() ? "" : ", did you mean " + nearest + "?");
}

FitPredictor read_predictor(const std::string& name) {
  FitPredictor predictor{.name = name, .quantity = name};
  constexpr std::string_view kOpening = "log2(";
  if (name.starts_with(kOpening) && name.ends_with(")")) {
    predictor.is_log2 = true;
    predictor.quantity = name.substr(kOpening.size(), name.size() - kOpening.size() - 1);
  }
  const std::size_t slash = predictor.quantity.find('/');
  predictor.sizes.push_back(predictor.quantity.substr(0, slash));
  if (slash != std::string::npos) predictor.sizes.push_back(predictor.quantity.substr(slash + 1));
  for (const std::string& size : predictor.sizes) size_named(size, name);
  return predictor;
}

FitPoint read_point(const Json& json, const std::vector<FitPredictor>& predictors) {
  std::vector<std::string> known = {"name"};
  for (const FitPredictor& predictor : predictors) known.push_back(predictor.quantity);
  check_keys(typed(json, "fits.predict", Json::value_t::object, "a list of objects"), "fits.predict.", known);
  FitPoint point{.name = name_member(json, /*is_arm=*/true, "fits.predict.name")};
  for (const FitPredictor& predictor : predictors) {
    require(json.contains(predictor.quantity), "study", "fits.predict must have every predictor's quantity, got no ",
            predictor.quantity, " in \"", point.name, '"');
    point.quantities.push_back(read_number(json[predictor.quantity], "fits.predict." + predictor.quantity, 0));
  }
  return point;
}

std::optional<double> size_of(const RunRow& row, const std::string& name) {
  const Size& size = size_named(name, name);
  std::vector<double> numbers;
  for (const std::string& path : size.kept) {
    const auto kept = row.keep.find(path);
    if (kept == row.keep.end() || !kept->is_number()) return std::nullopt;
    numbers.push_back(kept->get<double>());
  }
  return size.of(row, numbers);
}

/// The quantities of a run; nothing where its row lacks one, or has one that is no number above 0.
std::optional<std::vector<double>> quantities_of(const RunRow& row, const std::vector<FitPredictor>& predictors) {
  std::vector<double> quantities;
  for (const FitPredictor& predictor : predictors) {
    double quantity = 1;
    for (std::size_t index = 0; index < predictor.sizes.size(); ++index) {
      const std::optional<double> size = size_of(row, predictor.sizes[index]);
      if (!size || !(*size > 0) || !std::isfinite(*size)) return std::nullopt;
      quantity = index == 0 ? *size : quantity / *size;
    }
    quantities.push_back(quantity);
  }
  return quantities;
}

std::optional<double> figure_of(const RunRow& row, const std::string& figure) {
  const std::optional<double> value =
      figure == row.outcome_path ? std::optional(outcome_of(row)) : final_figure(row, figure);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

/// The arm's place in words: the values of the grid.
std::string words_of(const StudyArm& arm) {
  std::string words;
  for (const auto& [axis, value] : arm.grid)
    words += (words.empty() ? "" : "; ") + (value.is_string() ? value.get<std::string>() : axis + " " + value.dump());
  return words;
}

/// One place's pairs: `place`, `quantities`, `seeds`, `differences`; or null, and why in `missing`.
Json point_of(const ConfirmedRows& confirmed, const Comparison& pair, const std::string& figure,
              const std::vector<FitPredictor>& predictors, std::string& missing) {
  Json seeds = Json::array();
  std::vector<double> differences;
  std::optional<std::vector<double>> quantities;
  std::size_t left_out = 0;
  for (const auto& [seed, row] : confirmed.rows[pair.baseline]) {
    const auto other = confirmed.rows[pair.arm].find(seed);
    if (other == confirmed.rows[pair.arm].end()) continue;
    const auto here = quantities_of(*row, predictors);
    const auto left = figure_of(*row, figure), right = figure_of(*other->second, figure);
    if (!here || !left || !right || (quantities && *quantities != *here) || !std::isfinite(*right - *left)) {
      ++left_out;
      continue;
    }
    quantities = here;
    seeds.push_back(seed);
    differences.push_back(*right - *left);
  }
  if (left_out > 0) {  // means over the seeds that survived would flatter
    missing = "no figure or size on " + std::to_string(left_out) + " of " + std::to_string(left_out + seeds.size()) +
              " seeds";
    return nullptr;
  }
  if (seeds.size() < kFewestSeeds) {
    missing = std::to_string(seeds.size()) + " of at least " + std::to_string(kFewestSeeds) + " pairs";
    return nullptr;
  }
  return {{"place", words_of(confirmed.study.arms[pair.arm])},
          {"quantities", *quantities},
          {"seeds", seeds},
          {"differences", differences},
          {"interval", interval_or_null(t_interval(differences))}};
}

/// What is compared with what, each choice once, whatever the number of places.
std::vector<std::pair<std::string, std::string>> compared_choices(const Study& study) {
  std::vector<std::pair<std::string, std::string>> choices;
  for (const Comparison& pair : study.comparisons) {
    const std::pair choice{study.arms[pair.baseline].choice, study.arms[pair.arm].choice};
    if (std::ranges::find(choices, choice) == choices.end()) choices.push_back(choice);
  }
  return choices;
}

}  // namespace

FitRequest read_fit(const Json& json, const Study& study) {
  check_keys(typed(json, "fits", Json::value_t::object, "a list of objects"), "fits.",
             {"predictors", "figures", "predict"});
  FitRequest request;
  require(json.contains("predictors"), "study", "fits.predictors must be a list of texts, got nothing");
  std::set<std::string> names;
  for (const std::string& name : read_texts(json["predictors"], "fits.predictors")) {
    request.predictors.push_back(read_predictor(name));
    require(names.insert(name).second, "study", "fits.predictors must differ, got ", name, " twice");
  }
  require(!request.predictors.empty(), "study", "fits.predictors must hold at least one, got none");
  require(!study.comparisons.empty(), "study", "fits must have comparisons, whose differences it fits, got none");
  std::set<std::string> places;
  for (const StudyArm& arm : study.arms) places.insert(Json(arm.grid).dump());
  require(places.size() > request.predictors.size(), "study",
          "fits must have as many places in the grid as coefficients, ", request.predictors.size() + 1, ", got ",
          places.size());
  request.figures = {study.outcome};
  if (json.contains("figures")) request.figures = read_texts(json["figures"], "fits.figures");
  require(!request.figures.empty(), "study", "fits.figures must hold at least one, got none");
  for (const std::string& figure : request.figures)
    require(figure == study.outcome || figure.starts_with("validation."), "study",
            "fits.figures must be the outcome or figures of the last validation, got ", quote_for_message(figure));
  names.clear();
  if (json.contains("predict"))
    for (const Json& item : typed(json["predict"], "fits.predict", Json::value_t::array, "a list of objects")) {
      request.predict.push_back(read_point(item, request.predictors));
      require(names.insert(request.predict.back().name).second, "study",
              "fits.predict must have names that differ, got ", request.predict.back().name, " twice");
    }
  for (const FitPredictor& predictor : request.predictors)
    for (const std::string& size : predictor.sizes)
      for (const std::string& path : size_named(size, size).kept)
        if (std::ranges::find(request.keep, path) == request.keep.end()) request.keep.push_back(path);
  return request;
}

Json fit_points(const ConfirmedRows& confirmed, const FitRequest& request) {
  Json predictors = Json::array(), predict = Json::array(), differences = Json::array();
  for (const FitPredictor& predictor : request.predictors)
    predictors.push_back({{"name", predictor.name}, {"quantity", predictor.quantity}, {"log2", predictor.is_log2}});
  for (const FitPoint& point : request.predict)
    predict.push_back({{"name", point.name}, {"quantities", point.quantities}});
  for (const std::string& figure : request.figures)
    for (const auto& [baseline, arm] : compared_choices(confirmed.study)) {
      Json points = Json::array(), missing = Json::array();
      for (const Comparison& pair : confirmed.study.comparisons) {
        const StudyArm& own = confirmed.study.arms[pair.arm];
        if (own.choice != arm || confirmed.study.arms[pair.baseline].choice != baseline) continue;
        std::string why;
        Json point = point_of(confirmed, pair, figure, request.predictors, why);
        if (point.is_null()) missing.push_back({{"place", words_of(own)}, {"why", why}});
        else points.push_back(std::move(point));
      }
      differences.push_back({{"figure", figure},
                             {"unit", unit_of(figure)},
                             {"baseline", baseline},
                             {"arm", arm},
                             {"points", points},
                             {"missing", missing}});
    }
  return {{"predictors", predictors}, {"predict", predict}, {"differences", differences}};
}

}  // namespace lmhead
