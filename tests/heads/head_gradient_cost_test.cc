// What rules cost: formulae at sizes where every term shows, and no rule without one.
#include "lmhead/heads/head_gradient_cost.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

namespace lmhead {
namespace {

constexpr HeadStepShape kShape{.hidden_size = 10, .vocab_size = 1000, .tokens = 60, .micro_batches = 2};
constexpr double kGram = 2 * 1000 * 100, kLogits = 2 * 60 * 1000 * 10, kApply = 2 * 60 * 100, kCube = 1000;

double flops_of(const Json& json) { return head_gradient_flops(read_options<HeadGradientOptions>(json), kShape); }
double hidden_flops(const Json& json) { return flops_of({{"hidden", json}}); }

TEST(HeadGradientCost, IsThatOfTheProductsThatRulesCarryOut) {
  EXPECT_EQ(flops_of(Json::object()), 0);
  EXPECT_EQ(hidden_flops({{"rule", "top_subspace"}, {"rank", 3}}), kApply + kGram + 9 * kCube + 2 * 100 * 3);
  EXPECT_EQ(hidden_flops({{"rule", "noise"}, {"rank", 3}}), 2 * kApply + kGram + 9 * kCube + 2 * 100 * 3);
  EXPECT_EQ(hidden_flops({{"rule", "random_subspace"}, {"rank", 3}}), kApply + 4 * 10 * 9 - 4 * 27 / 3 + 2 * 100 * 3);
  EXPECT_EQ(hidden_flops({{"rule", "fixed_feedback"}}), 2 * kLogits);
  EXPECT_EQ(hidden_flops({{"rule", "row_normalized"}}), 0);
  EXPECT_EQ(hidden_flops({{"rule", "whitened"}, {"matrix", "head"}}), kApply + kGram + 11 * kCube);
  // A matrix is made of the first micro-batch's tokens, half of them.
  EXPECT_EQ(hidden_flops({{"rule", "whitened"}, {"matrix", "fisher"}}),
            kApply + kGram + kLogits / 2 + kApply / 2 + 11 * kCube);
  EXPECT_EQ(flops_of({{"weight", {{"rule", "parallel"}}}}), 3 * kGram + 13 * kCube);
  EXPECT_EQ(flops_of({{"penalties", {{"orthogonality", 0.1}}}}), 2 * kGram);
  EXPECT_EQ(flops_of({{"penalties", {{"alignment", 0.1}}}}), 3 * kLogits + kApply + 2 * 3 * kGram);
}

TEST(HeadGradientCost, OfAMatrixIsSharedByTheStepsThatUseIt) {
  const double each = hidden_flops({{"rule", "whitened"}, {"matrix", "head"}});
  EXPECT_EQ(hidden_flops({{"rule", "whitened"}, {"matrix", "head"}, {"refresh_every", 4}}),
            kApply + (each - kApply) / 4);
  EXPECT_EQ(hidden_flops({{"rule", "whitened"}, {"matrix", "head"}, {"refresh_every", nullptr}}), kApply);
}

TEST(HeadGradientCost, IsNothingWhereNothingIsChanged) {
  EXPECT_EQ(hidden_flops({{"rule", "whitened"}, {"exponent", 0}}), 0);
  EXPECT_EQ(hidden_flops({{"rule", "top_subspace"}, {"rank", 10}}), 0);
  EXPECT_EQ(flops_of({{"weight", {{"rule", "whitened"}, {"exponent", 0}}}}), 0);
}

/// The choices in "one of a, b, c".
std::vector<std::string> choices_of(const std::string& type) {
  std::vector<std::string> choices;
  std::istringstream text(type.starts_with("one of ") ? type.substr(7) : "");
  for (std::string choice; text >> choice;) choices.push_back(choice.substr(0, choice.find(',')));
  return choices;
}

TEST(HeadGradientCost, IsKnownOfEveryRuleAndMatrixThereIs) {
  std::set<std::string> seen;
  for (const FieldDescription& field : describe_options<HeadGradientOptions>())
    for (const std::string& choice : choices_of(field.type)) {
      const std::string part = field.path.substr(0, field.path.find('.')), key = field.path.substr(part.size() + 1);
      Json json = Json::object();
      json[part][key] = choice;
      if (key == "matrix") json[part]["rule"] = "whitened";
      EXPECT_GE(flops_of(json), 0) << field.path << ' ' << choice;
      seen.insert(choice);
    }
  for (const char* choice : {"noise", "row_normalized", "perpendicular", "feature_covariance"})
    EXPECT_TRUE(seen.count(choice)) << choice;
}

}  // namespace
}  // namespace lmhead
