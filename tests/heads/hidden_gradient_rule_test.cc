// Every rule on dL/dH against its formula in float64, by decompositions that the rules do not use.
#include "lmhead/heads/hidden_gradient_rule.h"

#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/linalg_pinv.h>
#include <ATen/ops/ones.h>

#include "lmhead/heads/gradient_matrix.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/gradient_fixtures.h"

namespace lmhead {
namespace {

Json with_rank(const char* rule, std::int64_t rank) { return {{"rule", rule}, {"rank", rank}}; }
Json whitened(const std::string& matrix, double exponent, double damping) {
  return {{"rule", "whitened"}, {"matrix", matrix}, {"exponent", exponent}, {"damping", damping}};
}

TEST(HiddenGradientRule, TopSubspaceIsBackpropagationThroughTheBestRankKApproximation) {
  const GradientBench bench;
  const auto [u, s, v] = at::linalg_svd(bench.weight64, false);
  for (const std::int64_t rank : {1, 3, 5}) {
    const at::Tensor best = (u.narrow(1, 0, rank) * s.narrow(0, 0, rank)).matmul(v.narrow(0, 0, rank));
    expect_near(bench.apply(with_rank("top_subspace", rank)),
                bench.difference.matmul(best) / bench.pass.tokens_per_gradient, 1e-5);
  }
}

TEST(HiddenGradientRule, NothingToChangeGivesBackTheVeryGradient) {
  const GradientBench bench;
  for (const Json& json : {with_rank("top_subspace", 6), with_rank("random_subspace", 7), with_rank("noise", 6),
                           whitened("fisher", 0, 0.01), whitened("random", 0, 0)})
    EXPECT_TRUE(bench.apply(json).is_same(bench.gradient)) << json;
  EXPECT_EQ(bench.rule(Json::object()), nullptr);
}

TEST(HiddenGradientRule, InducedStepOfTheUndampedInverseIsTheProjectionOfG) {
  // The logit step of -g' is -g' W^T; on col(W) the best there is is -G P_W.
  for (const Shape& shape :
       {Shape{40, 23, 6}, Shape{9, 5, 5}, Shape{12, 4, 7}}) {  // and where W has no full column rank
    const GradientBench bench(shape);
    const at::Tensor u = std::get<0>(at::linalg_svd(bench.weight64, false));
    const at::Tensor step = bench.apply(whitened("head", 1, 0)).to(at::kDouble).matmul(bench.weight64.t());
    expect_near(step, bench.difference.matmul(u).matmul(u.t()) / bench.pass.tokens_per_gradient, 1e-5);
  }
}

/// The matrices of the whitened family from their definitions.
at::Tensor definition(const std::string& matrix, const GradientBench& bench) {
  const at::Tensor& w = bench.weight64;
  const double size = double(bench.hidden.size(0));
  if (matrix == "head") return w.t().matmul(w);
  if (matrix == "centered_head") return (w - w.mean(0)).t().matmul(w - w.mean(0));
  if (matrix == "gradient_covariance") return bench.token_gradient.t().matmul(bench.token_gradient) / size;
  if (matrix == "feature_covariance")
    return bench.hidden.to(at::kDouble).t().matmul(bench.hidden.to(at::kDouble)) / size;
  at::Tensor sum = at::zeros({w.size(1), w.size(1)}, at::kDouble);  // fisher: the mean Hessian by the features
  for (std::int64_t row = 0; row < bench.hidden.size(0); ++row) {
    const at::Tensor p = bench.probability[row];
    sum += w.t().matmul((p.diag() - p.unsqueeze(1) * p).matmul(w)) / size;
  }
  return sum;
}

TEST(HiddenGradientRule, WhiteningIsTheInversePowerOfEachMatrix) {
  const GradientBench bench;
  for (const char* matrix : {"head", "centered_head", "fisher", "gradient_covariance", "feature_covariance"}) {
    SCOPED_TRACE(matrix);
    const at::Tensor a = definition(matrix, bench);
    expect_near(whitening_matrix(matrix, bench.pass, bench.gradient), a, 2e-6);
    const double lambda = 0.03 * a.trace().item<double>() / double(a.size(0));
    const at::Tensor inverse = at::linalg_inv(a + lambda * at::eye(a.size(0), at::kDouble));
    expect_near(bench.apply(whitened(matrix, 1, 0.03)), bench.gradient64.matmul(inverse), 3e-5);
    expect_near(bench.apply(whitened(matrix, 2, 0.03)), bench.gradient64.matmul(inverse).matmul(inverse), 1e-4);
    // A root has no formula but that its powers are the whole.
    for (const int parts : {2, 4}) {
      const auto rule = bench.rule(whitened(matrix, 1.0 / parts, 0.03));
      HeadPass later = bench.pass;
      at::Tensor result = rule->apply(bench.gradient, later);
      later.part = 1;  // no refresh: the same matrix again
      for (int count = 1; count < parts; ++count) result = rule->apply(result, later);
      expect_near(result, bench.gradient64.matmul(inverse), 3e-5);
    }
  }
}

TEST(HiddenGradientRule, FisherFromTheLogitsIsFisherFromTheGradient) {
  // Below the features, or with a loss whose gradient is not W^T (p - y), e_t comes from the probabilities.
  GradientBench bench;
  const at::Tensor want = definition("fisher", bench);
  bench.pass.feature_gradient.reset();
  expect_near(whitening_matrix("fisher", bench.pass, bench.gradient), want, 2e-6);
  bench.pass.feature_gradient = bench.gradient * 3;
  bench.pass.loss = {.z_loss = 0.1, .label_smoothing = 0.2};
  expect_near(whitening_matrix("fisher", bench.pass, bench.gradient), want, 2e-6);
}

TEST(HiddenGradientRule, WhiteningOfAZeroHeadIsZeroAndFinite) {
  GradientBench bench;
  bench.weight.zero_();
  for (const double damping : {0.0, 0.01}) EXPECT_EQ(largest_of(bench.apply(whitened("head", 0.5, damping))), 0);
}

TEST(HiddenGradientRule, RandomMatrixHasTheSpectrumOfTheCovarianceAndOneBasisARun) {
  GradientBench bench;
  const at::Tensor covariance = definition("gradient_covariance", bench);
  const at::Tensor first = whitening_matrix("random", bench.pass, bench.gradient);
  expect_near(at::linalg_eigvalsh(first), at::linalg_eigvalsh(covariance), 1e-5);
  EXPECT_GT(largest_of(first - covariance), 0.1 * largest_of(covariance));
  bench.pass.step = 9;
  EXPECT_TRUE(whitening_matrix("random", bench.pass, bench.gradient).equal(first));
  bench.pass.seed = 8;
  EXPECT_GT(largest_of(whitening_matrix("random", bench.pass, bench.gradient) - first), 0.01 * largest_of(first));
}

TEST(HiddenGradientRule, RandomSubspaceIsAProjectionDrawnAnewAtEveryRefresh) {
  const GradientBench bench;
  const at::Tensor identity = at::eye(6);
  Json json = with_rank("random_subspace", 2);
  const auto rule = bench.rule(json);
  HeadPass pass = bench.pass;
  at::Tensor mean = at::zeros({6, 6}), last = identity;
  constexpr int kDraws = 400;
  for (pass.step = 1; pass.step <= kDraws; ++pass.step) {
    const at::Tensor projection = rule->apply(identity, pass);
    expect_near(projection.matmul(projection), projection, 1e-5);
    EXPECT_NEAR(projection.trace().item<double>(), 2, 1e-5);
    EXPECT_GT(largest_of(projection - last), 0.01);
    mean += projection / kDraws;
    last = projection;
  }
  // E[Q Q^T] = k/D I; an entry of a draw has a standard deviation of at most 0.27.
  EXPECT_LE(largest_of(mean - identity * (2.0 / 6)), 5 * 0.27 / std::sqrt(double(kDraws)));

  json["refresh_every"] = nullptr;
  const auto fixed = bench.rule(json);
  pass.step = 1;
  const at::Tensor once = fixed->apply(identity, pass);
  pass.step = 5;
  EXPECT_TRUE(fixed->apply(identity, pass).equal(once));
}

TEST(HiddenGradientRule, NoiseTakesTheSizeOfWhatItReplaces) {
  const GradientBench bench({4000, 23, 6});
  const auto rule = bench.rule(with_rank("noise", 2));
  const at::Tensor sent = rule->apply(bench.gradient, bench.pass).to(at::kDouble);
  const at::Tensor kept = bench.gradient64.matmul(bench.top(2)), removed = bench.gradient64 - kept;
  expect_near(sent.matmul(bench.top(2)), kept, 1e-5);
  const at::Tensor noise = sent - kept;
  expect_near(noise.norm(2, {1}), removed.norm(2, {1}), 1e-4);
  // Isotropic in the complement: the directions' second moment is the projection over its rank, and knows nothing of g.
  const at::Tensor directions = noise / noise.norm(2, {1}, true);
  const at::Tensor complement = at::eye(6, at::kDouble) - bench.top(2);
  EXPECT_LE(largest_of(directions.t().matmul(directions) / 4000 - complement / 4), 5 / std::sqrt(4000.0));
  const double cosine = (noise * removed).sum().item<double>() / removed.square().sum().item<double>();
  EXPECT_LE(std::abs(cosine), 0.06);
  HeadPass next = bench.pass;
  next.part = 1;
  EXPECT_GT(largest_of(rule->apply(bench.gradient, next).to(at::kDouble) - sent), 0.1 * largest_of(sent));
  EXPECT_TRUE(rule->apply(bench.gradient, bench.pass).to(at::kDouble).equal(sent));  // the same step draws the same
}

TEST(HiddenGradientRule, FixedFeedbackIsOneMatrixWhateverTheHeadBecomes) {
  // B from one batch by least squares, up to a row common to all, which G cannot show: its rows sum to zero.
  GradientBench bench({60, 11, 4}), other({60, 11, 4}, "other");
  const auto rule = bench.rule({{"rule", "fixed_feedback"}});
  const at::Tensor sent = rule->apply(bench.gradient, bench.pass).to(at::kDouble) * bench.pass.tokens_per_gradient;
  const at::Tensor feedback = at::linalg_pinv(bench.difference).matmul(sent);
  expect_near(bench.difference.matmul(feedback), sent, 1e-5);
  other.pass.part = 1;
  expect_near(rule->apply(other.gradient, other.pass),
              other.difference.matmul(feedback) / other.pass.tokens_per_gradient, 1e-4);

  bench = GradientBench({1200, 1000, 2});
  const at::Tensor wide = bench.apply({{"rule", "fixed_feedback"}}).to(at::kDouble) * bench.pass.tokens_per_gradient;
  // A row of (P - Y) B has the variance range^2 ||p - y||^2.
  const double ratio = wide.square().sum().item<double>() / (2 * bench.difference.square().sum().item<double>());
  EXPECT_NEAR(std::sqrt(ratio), bench.context.initializer_range, 0.1 * bench.context.initializer_range);
}

TEST(HiddenGradientRule, RowNormalizedTakesTheRootOfEveryTokensNorm) {
  GradientBench bench;
  const at::Tensor norms = bench.token_gradient.norm(2, {1}, true);
  expect_near(bench.apply({{"rule", "row_normalized"}}),
              bench.token_gradient / norms.sqrt() / bench.pass.tokens_per_gradient, 1e-5);
  bench.gradient.zero_();
  EXPECT_EQ(largest_of(bench.apply({{"rule", "row_normalized"}})), 0);
}

TEST(HiddenGradientRule, MatrixStaysBetweenRefreshesAndIsStateThen) {
  GradientBench bench;
  Json json = whitened("head", 0.5, 0.01);
  EXPECT_TRUE(bench.rule(json)->state().empty());
  json["refresh_every"] = 3;
  const auto rule = bench.rule(json), resumed = bench.rule(json);
  ASSERT_EQ(rule->state().size(), 1u);
  const at::Tensor before = rule->apply(bench.gradient, bench.pass);
  bench.weight.select(1, 0).mul_(5);
  for (const std::int64_t step : {2, 3}) {
    bench.pass.step = step;
    EXPECT_TRUE(rule->apply(bench.gradient, bench.pass).equal(before));
  }
  resumed->state()[0].second.copy_(rule->state()[0].second);
  EXPECT_TRUE(resumed->apply(bench.gradient, bench.pass).equal(before));
  bench.pass.step = 4;
  bench.pass.part = 1;  // a refresh belongs to the first micro-batch
  EXPECT_TRUE(rule->apply(bench.gradient, bench.pass).equal(before));
  bench.pass.part = 0;
  EXPECT_GT(largest_of(rule->apply(bench.gradient, bench.pass) - before), 0.01 * largest_of(before));
}

TEST(HiddenGradientRule, ContradictionsAreRefusedByName) {
  const GradientBench bench;
  for (const char* rule : {"top_subspace", "random_subspace", "noise"})
    EXPECT_ERROR(bench.rule({{"rule", rule}}),
                 "head_gradient.hidden.rank must be a number for rule " + std::string(rule));
  for (const char* rule : {"exact", "whitened", "fixed_feedback", "row_normalized"})
    EXPECT_ERROR(bench.rule(with_rank(rule, 2)),
                 "head_gradient.hidden.rank must be null for rule " + std::string(rule));
  EXPECT_ERROR(bench.rule(with_rank("top_subspace", 0)), "rank must be null or an integer of at least 1");
  EXPECT_ERROR(bench.rule(whitened("head", -1, 0)), "exponent must be a number of at least 0");
  EXPECT_ERROR(bench.rule(whitened("head", 1, -1)), "damping must be a number of at least 0");
  EXPECT_ERROR(bench.rule(whitened("heads", 1, 0)), "matrix must be one of");
  EXPECT_ERROR(bench.rule({{"rule", "whitened"}, {"refresh_every", 0}}), "refresh_every must be null or an integer");
}

TEST(HiddenGradientRule, HeadsThatAreNoLinearMapTakeTheRulesThatNeedNone) {
  GradientBench bench;
  bench.context.has_linear_map = false;
  bench.pass.map.reset();
  for (const char* rule : {"top_subspace", "noise"})
    EXPECT_ERROR(bench.rule(with_rank(rule, 2)), "must have a head that is one linear map");
  EXPECT_ERROR(bench.rule({{"rule", "fixed_feedback"}}), "must have a head that is one linear map");
  for (const char* matrix : {"head", "centered_head", "fisher"})
    EXPECT_ERROR(bench.rule(whitened(matrix, 1, 0)), "whitened with matrix " + std::string(matrix));
  for (const Json& json : {with_rank("random_subspace", 2), whitened("gradient_covariance", 0.5, 0.01),
                           whitened("random", 0.5, 0.01), Json{{"rule", "row_normalized"}}})
    EXPECT_GT(largest_of(bench.apply(json)), 0);
}

TEST(HeadPass, LogitGradientIsTheDerivativeOfTheLossByTheProduct) {
  // With W = I the product is the features themselves, and autograd through the plain composition the oracle.
  constexpr std::int64_t kRows = 9, kClasses = 7;
  HeadPass pass;
  pass.targets = draw_targets(kRows, kClasses);
  for (const LossOptions& loss : kLosses)
    for (const double cap : {0.0, 2.0}) {
      pass.loss = loss;
      pass.map = LinearMap{at::eye(kClasses, at::kDouble), normal({kClasses}, "bias"), 0.6, cap};
      pass.hidden = normal({kRows, kClasses}, "features", 2);
      const at::Tensor leaf = pass.hidden.clone().requires_grad_(true);
      plain_linear_cross_entropy(
          leaf, *pass.map, pass.targets,
          {.reduction = Reduction::kSum, .label_smoothing = loss.label_smoothing, .z_loss = loss.z_loss})
          .backward();
      for_each_logit_block(pass, [&](std::int64_t first, const at::Tensor& logits) {
        EXPECT_EQ(first, 0);
        expect_near(logit_gradient(pass, first, logits), leaf.grad(), 1e-12);
      });
    }
}

TEST(HeadPass, BlocksCoverEveryRowOnce) {
  HeadPass pass;
  pass.map = LinearMap{at::ones({std::int64_t(1) << 22, 1}), {}, 1, 0};
  pass.hidden = at::ones({3, 1});
  std::int64_t next = 0;
  for_each_logit_block(pass, [&](std::int64_t first, const at::Tensor& logits) {
    EXPECT_EQ(first, next);
    EXPECT_LE(logits.numel(), std::int64_t(1) << 23);
    next += logits.size(0);
  });
  EXPECT_EQ(next, 3);
}

}  // namespace
}  // namespace lmhead
