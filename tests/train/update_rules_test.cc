// Every update that a group can choose, against float64 steps of its definition; what is nonsense gets one line.
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>

#include <nlohmann/json.hpp>

#include "lmhead/train/muon.h"
#include "lmhead/train/update_rule.h"
#include "tests/data/data_fixtures.h"
#include "tests/train/optimizer_fixtures.h"

namespace lmhead {
namespace {

constexpr std::size_t kHead = 4;

/// Plain descent at rate 0.1 for all but the group `lm_head.weight`, whose rate is 0.3 and whose decay is 0.2.
OptimizerOptions options_with(const std::string& group) {
  Json json = {{"type", "sgd"},     {"momentum", 0},        {"nesterov", false},
               {"weight_decay", 0}, {"learning_rate", 0.1}, {"groups", Json::array()}};
  Json own = {{"pattern", "lm_head.weight"}, {"learning_rate_scale", 3}, {"weight_decay", 0.2}};
  own.update(Json::parse(group));
  json["groups"].push_back(own);
  return read_options<OptimizerOptions>(json);
}

/// `direction(g, step)` is what is subtracted, times the rate, from the head's matrix.
void expect_head_moves_by(const std::string& group, double tolerance,
                          const std::function<at::Tensor(const at::Tensor&, std::int64_t)>& direction) {
  SCOPED_TRACE(group);
  expect_same_steps(
      options_with(group), make_parameters(),
      [&](std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t step, double factor) {
        value = index == kHead ? value * (1 - 0.3 * factor * 0.2) - 0.3 * factor * direction(g, step)
                               : value - 0.1 * factor * g;
      },
      tolerance);
}

/// b <- mu b + g; b, or with look-ahead g + mu b.
class ReferenceMomentum {
 public:
  ReferenceMomentum(double momentum, bool nesterov) : momentum_(momentum), nesterov_(nesterov) {}
  at::Tensor operator()(const at::Tensor& g) {
    buffer_ = buffer_.defined() ? momentum_ * buffer_ + g : g;
    return nesterov_ ? g + momentum_ * buffer_ : buffer_;
  }

 private:
  double momentum_;
  bool nesterov_;
  at::Tensor buffer_;
};

TEST(GroupUpdates, SgdHasMomentumOfItsOwn) {
  ReferenceMomentum plain(0.8, false), ahead(0.95, true);
  expect_head_moves_by(R"({"type": "sgd", "momentum": 0.8, "nesterov": false})", 2e-6,
                       [&](const at::Tensor& g, std::int64_t) { return plain(g); });
  expect_head_moves_by(R"({"type": "sgd"})", 2e-6, [&](const at::Tensor& g, std::int64_t) { return ahead(g); });
}

TEST(GroupUpdates, AdamWHasBetasAndEpsOfItsOwn) {
  at::Tensor m, v;
  expect_head_moves_by(R"({"type": "adamw", "betas": [0.7, 0.999], "eps": 0.01})", 2e-6,
                       [&](const at::Tensor& g, std::int64_t step) {
                         m = (m.defined() ? 0.7 * m : 0 * g) + 0.3 * g;
                         v = (v.defined() ? 0.999 * v : 0 * g) + 0.001 * g * g;
                         const double t = double(step);
                         return m / (1 - std::pow(0.7, t)) / ((v / (1 - std::pow(0.999, t))).sqrt() + 0.01);
                       });
}

/// Algorithm 2 of Reddi et al. with the corrections and the decay of AdamW. The betas make v fall between steps, so
/// that the largest is not always the newest.
TEST(GroupUpdates, AmsgradDividesByTheLargestSecondAverage) {
  at::Tensor m, v, largest;
  std::int64_t held = 0;
  expect_head_moves_by(R"({"type": "adamw", "betas": [0.8, 0.5], "amsgrad": true})", 2e-6,
                       [&](const at::Tensor& g, std::int64_t step) {
                         m = (m.defined() ? 0.8 * m : 0 * g) + 0.2 * g;
                         v = (v.defined() ? 0.5 * v : 0 * g) + 0.5 * g * g;
                         largest = largest.defined() ? at::maximum(largest, v) : v;
                         held += (largest > v).sum().item<std::int64_t>();
                         const double t = double(step);
                         return m / (1 - std::pow(0.8, t)) / ((largest / (1 - std::pow(0.5, t))).sqrt() + 1e-8);
                       });
  EXPECT_GT(held, 0);
}

/// Equation 11 of arXiv 2502.08441 as its code has it: v of every entry, averaged over the words before the root.
TEST(GroupUpdates, CoupledAdamSharesOneSecondAverageAmongRows) {
  at::Tensor m, v;
  expect_head_moves_by(R"({"type": "adamw", "betas": [0.8, 0.97], "coupled": true})", 2e-6,
                       [&](const at::Tensor& g, std::int64_t step) {
                         m = (m.defined() ? 0.8 * m : 0 * g) + 0.2 * g;
                         v = (v.defined() ? 0.97 * v : 0 * g) + 0.03 * g * g;
                         const double t = double(step);
                         const at::Tensor mean = v.mean(0, /*keepdim=*/true);
                         return m / (1 - std::pow(0.8, t)) / ((mean / (1 - std::pow(0.97, t))).sqrt() + 1e-8);
                       });
}

/// The softmax's gradient of W has rows that sum to zero; where all words share their divisor, so have the updates.
TEST(GroupUpdates, CoupledAdamConservesTheMeanRowAndAdamWDoesNot) {
  for (const bool coupled : {false, true}) {
    OptimizerOptions options = options_with(coupled ? R"({"type": "adamw", "coupled": true, "weight_decay": 0})"
                                                    : R"({"type": "adamw", "weight_decay": 0})");
    const ParameterList parameters = make_parameters();
    const auto optimizer = make_optimizer(options, parameters);
    const at::Tensor before = parameters[kHead]->value.detach().to(at::kDouble).mean(0);
    for (std::int64_t step = 1; step <= 20; ++step) {
      std::vector<at::Tensor> gradients(parameters.size());
      const at::Tensor g = normal({11, 4}, "centred", std::uint64_t(step));
      gradients[kHead] = (g - g.mean(0, true)).to(at::kFloat);
      optimizer->step(gradients, step, 1);
    }
    const at::Tensor moved = parameters[kHead]->value.detach().to(at::kDouble).mean(0) - before;
    if (coupled) {
      EXPECT_LE(moved.abs().max().item<double>(), 1e-5);
    } else {
      EXPECT_GE(moved.abs().max().item<double>(), 1e-2);
    }
  }
}

TEST(GroupUpdates, MuonOrthogonalisesTheHeadWhereItIsChosen) {
  ReferenceMomentum momentum(0.9, true);
  expect_head_moves_by(R"({"type": "muon", "momentum": 0.9})", 2e-5, [&](const at::Tensor& g, std::int64_t) {
    const auto [u, s, vh] = at::linalg_svd(momentum(g), /*full_matrices=*/false);
    at::Tensor x = s / s.norm();
    for (int iteration = 0; iteration < 5; ++iteration) x = 3.4445 * x - 4.7750 * x.pow(3) + 2.0315 * x.pow(5);
    return std::sqrt(11.0 / 4) * u.matmul(x.unsqueeze(1) * vh);
  });
}

TEST(GroupUpdates, RowNormalizedMovesEveryRowByTheRate) {
  ReferenceMomentum momentum(0.9, false);
  expect_head_moves_by(R"({"type": "row_normalized"})", 2e-6, [&](const at::Tensor& g, std::int64_t) {
    const at::Tensor u = momentum(g);
    return u / u.norm(2, {1}, /*keepdim=*/true);
  });
}

TEST(GroupUpdates, RowNormalizedBearsTinyAndEmptyRows) {
  const ParameterList parameters = make_parameters();
  const auto optimizer = make_optimizer(options_with(R"({"type": "row_normalized", "weight_decay": 0})"), parameters);
  const at::Tensor before = parameters[kHead]->value.detach().to(at::kDouble);
  std::vector<at::Tensor> gradients(parameters.size());
  gradients[kHead] = at::ones_like(parameters[kHead]->value.detach());
  gradients[kHead][0].zero_();
  gradients[kHead][1].mul_(1e-25);  // its squares are no float32 numbers
  optimizer->step(gradients, 1, 1);
  const at::Tensor moved = (parameters[kHead]->value.detach().to(at::kDouble) - before).norm(2, {1});
  EXPECT_EQ(moved[0].item<double>(), 0);
  for (const std::int64_t row : {1, 2, 10}) EXPECT_NEAR(moved[row].item<double>(), 0.3, 1e-6) << row;
}

TEST(GroupUpdates, SignMovesEveryEntryByTheRateOverTheColumns) {
  ReferenceMomentum momentum(0.9, false);
  expect_head_moves_by(R"({"type": "sign"})", 2e-6,
                       [&](const at::Tensor& g, std::int64_t) { return momentum(g).sign() / 4; });
}

TEST(GroupUpdates, AGroupOfMuonsOwnChoosesItsRateFromTheOptimisers) {
  OptimizerOptions options;
  options.type = "muon";
  options.learning_rate = 0.1;
  options.matrix_learning_rate = 0.7;
  options.weight_decay = 0;
  options.groups = {{"*.down_proj.*"}};
  options.groups[0].update = UpdateOptions::of_type("sign");
  const ParameterList parameters = make_parameters();
  const at::Tensor before = parameters[2]->value.detach().clone();
  std::vector<at::Tensor> gradients(parameters.size());
  gradients[2] = at::ones_like(before);
  make_optimizer(options, parameters)->step(gradients, 1, 1);
  EXPECT_LE((before - parameters[2]->value.detach() - 0.1 / 9).abs().max().item<double>(), 1e-6);
}

TEST(GroupUpdates, WhatIsNonsenseGetsOneLine) {
  const auto error_of = [](const std::string& group) {
    try {
      make_optimizer(options_with(group), make_parameters());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  for (const char* type : {"muon", "row_normalized", "sign"})
    EXPECT_EQ(
        error_of(R"({"pattern": "lm_head.*", "type": ")" + std::string(type) + "\"}"),
        std::string("[config] optimizer.groups.0.type ") + type + " must be for matrices alone, got lm_head.bias [11]");
  EXPECT_EQ(
      error_of(R"({"pattern": "*norm*", "type": "adamw", "coupled": true})"),
      "[config] optimizer.groups.0.type adamw with coupled must be for matrices alone, got model.norm.weight [4]");
  EXPECT_EQ(error_of(R"({"type": "adamw", "coupled": true, "amsgrad": true})"),
            "[config] optimizer.groups.0.amsgrad must be off with coupled, got both");
  EXPECT_EQ(error_of(R"({"type": "adamw", "betas": [0.9]})"),
            "[config] optimizer.groups.0.betas must be two numbers, got 1");
  EXPECT_EQ(error_of(R"({"type": "adam"})"),
            "[config] groups.0.type must be one of inherit, adamw, sgd, muon, row_normalized, sign, got \"adam\"");
  EXPECT_NE(error_of(R"({"type": "sign", "betas": [0.9, 0.99]})").find("groups.0.betas must be a known key"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"momentum": 0.5})").find("groups.0.momentum must be a known key"), std::string::npos);
}

TEST(GroupUpdates, AreWrittenBackWithTheKeysOfTheirType) {
  const auto written = write_options(options_with(R"({"type": "sign", "momentum": 0.5})"));
  EXPECT_EQ(written["groups"][0], (Json{{"pattern", "lm_head.weight"},
                                        {"learning_rate", nullptr},
                                        {"learning_rate_scale", 3.0},
                                        {"rare_from", nullptr},
                                        {"rare_learning_rate_scale", 1.0},
                                        {"weight_decay", 0.2},
                                        {"type", "sign"},
                                        {"momentum", 0.5},
                                        {"nesterov", false}}));
  EXPECT_EQ(write_options(read_options<OptimizerOptions>(written)), written);
  std::size_t adamw = 0;
  for (const UpdateKey& key : describe_update_keys()) adamw += key.type == "adamw";
  EXPECT_EQ(adamw, 4u);
}

TEST(GroupUpdates, KeepTheStateThatTheySay) {
  const auto names_of = [](const std::string& group) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : make_optimizer(options_with(group), make_parameters())->state()) {
      EXPECT_EQ(tensor.abs().max().item<double>(), 0) << name;
      if (name.starts_with("lm_head.weight.")) names.push_back(name.substr(15) + " " + std::to_string(tensor.numel()));
    }
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_of(R"({"type": "adamw"})"), (Names{"exp_avg 44", "exp_avg_sq 44"}));
  EXPECT_EQ(names_of(R"({"type": "adamw", "amsgrad": true})"),
            (Names{"exp_avg 44", "exp_avg_sq 44", "max_exp_avg_sq 44"}));
  EXPECT_EQ(names_of(R"({"type": "adamw", "coupled": true})"), (Names{"exp_avg 44", "exp_avg_sq 4"}));
  for (const char* type : {"sgd", "muon", "row_normalized", "sign"})
    EXPECT_EQ(names_of(R"({"type": ")" + std::string(type) + "\"}"), Names{"momentum 44"}) << type;
}

}  // namespace
}  // namespace lmhead
