// Every update rule against a float64 implementation from its published definition.
#include "lmhead/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lmhead/train/muon.h"
#include "tests/data/data_fixtures.h"
#include "tests/train/optimizer_fixtures.h"

namespace lmhead {
namespace {

/// Adam with decoupled decay: Loshchilov & Hutter 2019, algorithm 2.
class ReferenceAdamW {
 public:
  explicit ReferenceAdamW(const OptimizerOptions& options) : o_(options), m_(99), v_(99) {}
  void operator()(std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t step, double rate,
                  double decay) {
    const double b1 = o_.betas[0], b2 = o_.betas[1];
    m_[index] = (m_[index].defined() ? b1 * m_[index] : 0 * g) + (1 - b1) * g;
    v_[index] = (v_[index].defined() ? b2 * v_[index] : 0 * g) + (1 - b2) * g * g;
    const at::Tensor m = m_[index] / (1 - std::pow(b1, double(step))), v = v_[index] / (1 - std::pow(b2, double(step)));
    value = value - rate * decay * value - rate * m / (v.sqrt() + o_.eps);
  }

 private:
  OptimizerOptions o_;
  std::vector<at::Tensor> m_, v_;
};

TEST(Optimizer, AdamWIsThePublishedOne) {
  OptimizerOptions options;
  options.learning_rate = 0.05;
  options.weight_decay = 0.3;
  options.betas = {0.8, 0.97};
  ReferenceAdamW adamw(options);
  expect_same_steps(
      options, make_parameters(),
      [&](std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t step, double factor) {
        adamw(index, value, g, step, 0.05 * factor, value.dim() == 2 ? 0.3 : 0);
      },
      2e-6);
}

TEST(Optimizer, SgdIsHeavyBallWithAndWithoutLookAhead) {
  for (const bool nesterov : {false, true}) {
    OptimizerOptions options;
    options.type = "sgd";
    options.learning_rate = 0.05;
    options.weight_decay = 0.2;
    options.momentum = 0.9;
    options.nesterov = nesterov;
    std::vector<at::Tensor> buffers(6);
    expect_same_steps(
        options, make_parameters(),
        [&](std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t, double factor) {
          at::Tensor& b = buffers[index];
          b = b.defined() ? 0.9 * b + g : g;
          const double rate = 0.05 * factor, decay = value.dim() == 2 ? 0.2 : 0;
          value = value - rate * decay * value - rate * (nesterov ? g + 0.9 * b : b);
        },
        2e-6);
  }
}

/// Five steps of the quintic on the singular values themselves.
at::Tensor reference_orthogonalise(const at::Tensor& matrix) {
  const auto [u, s, vh] = at::linalg_svd(matrix, /*full_matrices=*/false);
  at::Tensor x = s / s.norm();
  for (int iteration = 0; iteration < 5; ++iteration) x = 3.4445 * x - 4.7750 * x.pow(3) + 2.0315 * x.pow(5);
  return u.matmul(x.unsqueeze(1) * vh);
}

TEST(Optimizer, MuonOrthogonalisesBodyMatricesPartByPartAndLeavesTheRestToAdamW) {
  OptimizerOptions options;
  options.type = "muon";
  options.learning_rate = 0.01;
  options.matrix_learning_rate = 0.04;
  options.weight_decay = 0.2;
  options.momentum = 0.9;
  const ParameterList parameters = make_parameters();
  ReferenceAdamW adamw(options);
  std::vector<at::Tensor> buffers(6);
  expect_same_steps(
      options, parameters,
      [&](std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t step, double factor) {
        if (parameters[index]->kind != ParameterKind::kMatrix)
          return adamw(index, value, g, step, 0.01 * factor, value.dim() == 2 ? 0.2 : 0);
        at::Tensor& b = buffers[index];
        b = b.defined() ? 0.9 * b + g : g;
        const at::Tensor smoothed = g + 0.9 * b;
        const double rate = 0.04 * factor;
        value = value * (1 - rate * 0.2);
        std::vector<std::int64_t> rows = {value.size(0)};
        if (!parameters[index]->parts.empty()) rows = {5, 2, 1};
        std::int64_t start = 0;
        for (const std::int64_t count : rows) {
          const double shape = std::sqrt(std::max(1.0, double(count) / double(value.size(1))));
          value.narrow(0, start, count) -= rate * shape * reference_orthogonalise(smoothed.narrow(0, start, count));
          start += count;
        }
      },
      2e-5);  // the quintic multiplies float32 roundings of small singular values by up to 3.4^5
}

TEST(Orthogonalise, SingularValuesComeNearOneAndDirectionsStay) {
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{8, 8}, {5, 40}, {40, 5}, {1, 7}, {7, 1}}) {
    const at::Tensor matrix = normal(shape, "matrix");
    const auto [u, s, vh] = at::linalg_svd(matrix, false);
    if ((s[-1] / s.norm()).item<double>() < 0.01) continue;  // five steps lift only what is not tiny
    const at::Tensor got = orthogonalise(matrix.to(at::kFloat)).to(at::kDouble);
    EXPECT_EQ(got.sizes(), matrix.sizes());
    const at::Tensor core = u.t().matmul(got).matmul(vh.t());
    EXPECT_GT(core.diagonal().min().item<double>(), 0.6);
    EXPECT_LT(core.diagonal().max().item<double>(), 1.3);
    EXPECT_LE((core - core.diagonal().diag()).abs().max().item<double>(), 1e-4);
  }
}

TEST(Orthogonalise, ZeroStaysZero) { EXPECT_EQ(orthogonalise(at::zeros({3, 4})).abs().max().item<double>(), 0); }

/// Nothing but a rate of 0.1, so that what groups change is all there is to see.
OptimizerOptions plain_descent() {
  OptimizerOptions options;
  options.type = "sgd";
  options.momentum = 0;
  options.nesterov = false;
  options.learning_rate = 0.1;
  options.weight_decay = 0;
  return options;
}

TEST(ParameterGroups, HaveTheirOwnRateAndDecayAndTheFirstMatchCounts) {
  OptimizerOptions options = plain_descent();
  options.groups = {{"lm_head.*", 0.5, std::nullopt}, {"*.weight", std::nullopt, 0.25}};
  expect_same_steps(
      options, make_parameters(),
      [&](std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t, double factor) {
        const bool head = index >= 4;
        const double rate = (head ? 0.5 : 0.1) * factor, decay = head ? 0 : 0.25;
        value = value * (1 - rate * decay) - rate * g;
      },
      2e-6);
}

TEST(ParameterGroups, MayScaleTheRateThatTheyHave) {
  OptimizerOptions options = plain_descent();
  options.groups = {{"lm_head.*", std::nullopt, std::nullopt, 3}, {"*norm*", 0.5, std::nullopt, 0.5}};
  const ParameterList parameters = make_parameters();
  expect_same_steps(
      options, parameters,
      [&](std::size_t index, at::Tensor& value, const at::Tensor& g, std::int64_t, double factor) {
        const bool norm = parameters[index]->name.find("norm") != std::string::npos;
        value = value - (index >= 4 ? 0.3 : norm ? 0.25 : 0.1) * factor * g;
      },
      2e-6);
}

TEST(ParameterGroups, APatternWithoutAParameterIsAnError) {
  OptimizerOptions options;
  options.groups = {{"lm_head.*", 0.5, std::nullopt}, {"lmhead.*", 0.5, std::nullopt}};
  EXPECT_ERROR(make_optimizer(options, make_parameters()),
               "[config] optimizer.groups.1.pattern must match a parameter that no earlier group took, got "
               "\"lmhead.*\"");
  options.groups = {{"*", 0.5, std::nullopt}, {"lm_head.*", 0.5, std::nullopt}};
  EXPECT_ERROR(make_optimizer(options, make_parameters()), "optimizer.groups.1.pattern");
}

TEST(Optimizer, ParametersWithoutAGradientStay) {
  for (const char* type : {"adamw", "sgd", "muon"}) {
    OptimizerOptions options;
    options.type = type;
    const ParameterList parameters = make_parameters();
    const auto optimizer = make_optimizer(options, parameters);
    for (std::size_t without = 0; without < parameters.size(); ++without) {
      std::vector<at::Tensor> gradients, before;
      for (const ParameterPtr& parameter : parameters) {
        gradients.push_back(at::ones_like(parameter->value.detach()));
        before.push_back(parameter->value.detach().clone());
      }
      gradients[without].reset();
      optimizer->step(gradients, 1, 1);
      for (std::size_t index = 0; index < parameters.size(); ++index)
        EXPECT_EQ(parameters[index]->value.detach().equal(before[index]), index == without) << type << index;
    }
  }
}

TEST(Optimizer, StateIsNamedByParameterAndMadeBeforeTheFirstStep) {
  OptimizerOptions options;
  options.type = "muon";
  const auto optimizer = make_optimizer(options, make_parameters());
  std::vector<std::string> names;
  for (const auto& [name, tensor] : optimizer->state()) {
    names.push_back(name);
    EXPECT_EQ(tensor.abs().max().item<double>(), 0) << name;
  }
  EXPECT_EQ(names.size(), 2u * 4 + 2);
  for (const char* name :
       {"lm_head.weight.exp_avg", "lm_head.bias.exp_avg_sq", "model.layers.0.qkv_proj.weight.momentum"})
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
}

TEST(Optimizer, BetasMustBeTwo) {
  OptimizerOptions options;
  options.betas = {0.9};
  EXPECT_ERROR(make_optimizer(options, make_parameters()), "optimizer.betas must be two numbers, got 1");
}

TEST(GradientNorm, IsTheEuclideanNormOfEverythingDefined) {
  EXPECT_EQ(gradient_norm({}), 0);
  EXPECT_EQ(gradient_norm({at::Tensor()}), 0);
  const at::Tensor a = normal({7, 3}, "a").to(at::kFloat), b = normal({5}, "b").to(at::kFloat);
  const double want = std::sqrt((a.to(at::kDouble).square().sum() + b.to(at::kDouble).square().sum()).item<double>());
  EXPECT_NEAR(gradient_norm({a, at::Tensor(), b}), want, 1e-6 * want);
}

}  // namespace
}  // namespace lmhead
