#include "lmhead/diagnose/diagnostic.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

TokenBatch batch_of(const oracle::Problem& problem) {
  return {problem.hidden, problem.targets, at::arange(problem.hidden.size(0), at::kLong).floor_divide(5), {}, 100.0};
}

void expect_near(const Json& a, const Json& b, const std::string& where) {
  ASSERT_EQ(a.type(), b.type()) << where;
  if (a.is_number_float()) {
    EXPECT_NEAR(a.get<double>(), b.get<double>(), 1e-9 * (1 + std::abs(b.get<double>()))) << where;
  } else if (a.is_structured()) {
    ASSERT_EQ(a.size(), b.size()) << where;
    for (auto left = a.begin(), right = b.begin(); left != a.end(); ++left, ++right) expect_near(*left, *right, where);
  } else {
    EXPECT_EQ(a, b) << where;
  }
}

TEST(DiagnosticSet, RunsEveryDiagnosticOfTheListByDefault) {
  const oracle::Problem problem = oracle::problem(30, 6, 40);
  DiagnosticSet set(problem.map);
  set.update({problem.hidden, problem.targets, {}, {}, {}});
  const Json result = set.result();
  EXPECT_EQ(result["hidden_size"], 6);
  EXPECT_EQ(result["vocab_size"], 40);
  EXPECT_EQ(result["tokens"], 30);
  for (const DiagnosticKind& kind : diagnostic_kinds())
    EXPECT_EQ(result.contains(kind.name), !kind.only_where_asked) << kind.name;
}

/// z = W tanh(h)^3: no linear map.
class CubedHead : public LmHead {
 public:
  explicit CubedHead(at::Tensor weight) : LmHead(weight.size(1), weight.size(0)), weight_(std::move(weight)) {}

 private:
  at::Tensor compute_logits(const HeadInput& input) const override {
    return at::matmul(input.hidden.tanh().pow(3), weight_.t());
  }
  at::Tensor weight_;
};

TEST(DiagnosticSet, MeasuresOfAnyHeadWhatIsDefinedForIt) {
  const oracle::Problem problem = oracle::problem(30, 6, 40);
  // The same losses from a linear map of the features that enter the last product.
  const at::Tensor features = problem.hidden.tanh().pow(3), positions = at::arange(30, at::kLong);
  DiagnosticSet any(std::make_shared<CubedHead>(problem.map.weight)), linear(problem.map);
  any.update({problem.hidden, problem.targets, {}, positions, 100.0});
  linear.update({features, problem.targets, {}, positions, 100.0});
  const Json got = any.result(), expected = linear.result();
  expect_near(got["quality"], expected["quality"], "quality");
  for (const char* groups : {"by_frequency", "by_position", "by_probability"}) {
    ASSERT_EQ(got["token_breakdown"][groups].size(), expected["token_breakdown"][groups].size());
    for (std::size_t index = 0; index < expected["token_breakdown"][groups].size(); ++index) {
      Json group = expected["token_breakdown"][groups][index];
      group["retained_energy"] = nullptr;
      expect_near(got["token_breakdown"][groups][index], group, groups);
    }
  }
  EXPECT_TRUE(got["token_breakdown"]["mean"].is_null());
  EXPECT_TRUE(got["token_breakdown"]["quantiles"]["0.5"].is_null());
  EXPECT_EQ(got["left_out"]["diagnostics"],
            Json({"gradient_retention", "gradient_spectrum", "update_direction", "head_spectrum"}));
  for (const char* name : {"gradient_retention", "gradient_spectrum"}) EXPECT_FALSE(got.contains(name));
  EXPECT_FALSE(expected.contains("left_out"));
  EXPECT_THROW(any.update({problem.hidden * NAN, problem.targets, {}, {}, {}}), Error);
}

TEST(DiagnosticSet, BatchesOfAnySizeGiveTheFiguresOfTheWhole) {
  const oracle::Problem problem = oracle::problem(30, 6, 40);
  const TokenBatch whole = batch_of(problem);
  DiagnosticOptions options;
  options.gradient_spectrum.tokens = 23;
  options.update_direction.tokens = 17;
  DiagnosticSet once(problem.map, {}, options), pieces(problem.map, {}, options);
  once.update(whole);
  for (int repetition = 0; repetition < 2; ++repetition) {  // the second time after a reset
    pieces.reset();
    std::int64_t row = 0;
    for (const std::int64_t rows : {4, 0, 1, 25}) {
      const at::Tensor ignored = at::full({2}, -100, at::kLong);
      pieces.update({at::cat(std::vector<at::Tensor>{oracle::normal("x", {2, 6}), whole.hidden.narrow(0, row, rows)}),
                     at::cat(std::vector<at::Tensor>{ignored, whole.targets.narrow(0, row, rows)}),
                     at::cat(std::vector<at::Tensor>{ignored, whole.documents.narrow(0, row, rows)}),
                     {},
                     25.0});
      row += rows;
    }
    const Json a = pieces.result(), b = once.result();
    for (const auto& item : b.items()) expect_near(a[item.key()], item.value(), item.key());
  }
}

TEST(DiagnosticSet, TakesBfloat16FeaturesAndWeights) {
  oracle::Problem problem = oracle::problem(30, 6, 40);
  const oracle::Problem rounded{
      problem.hidden.to(at::kBFloat16), problem.targets, {.weight = problem.map.weight.to(at::kBFloat16), .bias = {}}};
  const oracle::Problem wide{
      rounded.hidden.to(at::kDouble), problem.targets, {.weight = rounded.map.weight.to(at::kDouble), .bias = {}}};
  DiagnosticSet narrow(rounded.map), exact(wide.map);
  narrow.update({rounded.hidden, problem.targets, {}, {}, {}});
  exact.update({wide.hidden, problem.targets, {}, {}, {}});
  const Json a = narrow.result(), b = exact.result();
  const auto near = [&](const char* diagnostic, const char* key) {
    EXPECT_NEAR(a[diagnostic][key].get<double>(), b[diagnostic][key].get<double>(), 2e-6) << key;
  };
  near("quality", "loss");
  near("gradient_retention", "destroyed_ratio");
  near("gradient_spectrum", "best_retained_energy");
  near("gradient_spectrum", "cross_validated_best_retained_energy");
  near("head_spectrum", "mean_row_share");
  for (const char* direction : {"gradient", "backpropagation", "projection"})
    for (std::size_t index = 0; index < 8; ++index)
      EXPECT_NEAR(a["update_direction"]["loss_after"][direction][index].get<double>(),
                  b["update_direction"]["loss_after"][direction][index].get<double>(), 2e-5);
}

TEST(DiagnosticSet, AVocabularyOfOneHasNullsAndNoErrors) {
  const oracle::Problem problem = oracle::problem(5, 3, 1);
  DiagnosticSet set(problem.map);
  set.update(batch_of(problem));
  const Json result = set.result();
  EXPECT_TRUE(result["gradient_spectrum"]["avoidable_energy"].is_null());
  EXPECT_TRUE(result["token_breakdown"]["quantiles"]["0.5"].is_null());
  EXPECT_EQ(result.dump().find("nan"), std::string::npos);
}

TEST(DiagnosticSet, RefusesWhatItCannotMeasure) {
  const oracle::Problem problem = oracle::problem(10, 4, 9);
  EXPECT_THROW(DiagnosticSet(problem.map, {"qualty"}), Error);
  EXPECT_THROW(DiagnosticSet(problem.map, {}, {}, at::full({8}, 1, at::kLong)), Error);
  DiagnosticSet set(problem.map);
  TokenBatch batch = batch_of(problem);
  batch.documents = batch.documents.narrow(0, 0, 9);
  EXPECT_THROW(set.update(batch), Error);
  batch = batch_of(problem);
  batch.positions = at::full({10}, -1, at::kLong);
  EXPECT_THROW(set.update(batch), Error);
  batch = batch_of(problem);
  batch.hidden = at::full_like(batch.hidden, INFINITY);
  EXPECT_THROW(set.update(batch), Error);
  EXPECT_THROW(DiagnosticSet(problem.map).result(), Error);
}

TEST(DiagnosticSet, OptionsAreReadStrictly) {
  const auto options = read_options<DiagnosticOptions>(
      Json::parse(R"({"gradient_spectrum":{"tokens":64},"update_direction":{"step_sizes":[1]}})"));
  EXPECT_EQ(options.gradient_spectrum.tokens, 64);
  EXPECT_EQ(options.update_direction.step_sizes, std::vector<double>{1});
  EXPECT_THROW(read_options<DiagnosticOptions>(Json::parse(R"({"gradient_spectrum":{"tokens":1}})")), Error);
}

}  // namespace
}  // namespace lmhead
