#include "lmhead/kernels/linear_token_loss.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/data/data_fixtures.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;

/// loss = further_0 lse_0 - log sum_k e^(further_k + z_k - lse_k), or, where the target is absent, e^lse_0 + further_0
/// alone: every term has a slope of its own. To which half the square of each finite logsumexp of a range is added.
double some_loss(std::int64_t rows, std::int64_t ranges, const TokenTerms& terms, const TokenSlopes& by) {
  double sum = 0, of_ranges = 0;
  for (std::int64_t range = 0; range < rows * ranges; ++range) {
    const double one = terms.range_logsumexp[range];
    if (std::isinf(one)) continue;
    by.range_logsumexp[range] = one;
    of_ranges += one * one / 2;
  }
  std::vector<double> shares;
  for (std::int64_t k = 0; k < rows; ++k) {
    shares.push_back(std::exp(terms.further[k] + terms.target_logit[k] - terms.logsumexp[k]));
    sum += shares.back();
  }
  for (std::int64_t k = 0; k < rows; ++k) {
    const double share = sum > 0 ? shares[k] / sum : 0;
    by.logsumexp[k] = share, by.target_logit[k] = by.further[k] = -share;
  }
  if (std::isinf(terms.logsumexp[0])) {
    by.further[0] = 1;
    return terms.further[0] + of_ranges;
  }
  by.logsumexp[0] += terms.further[0], by.further[0] += terms.logsumexp[0];
  return terms.further[0] * terms.logsumexp[0] - (sum > 0 ? std::log(sum) : 0) + of_ranges;
}

/// The same by plain composition, [N], from float64 logits [N K, V] of which absent words are minus infinity.
at::Tensor plain_loss(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& further,
                      const at::Tensor& ranges) {
  const std::int64_t rows = logits.size(0) / targets.size(0);
  const at::Tensor lse = at::logsumexp(logits, 1).view({-1, rows});
  const at::Tensor target = logits.gather(1, targets.repeat_interleave(rows).unsqueeze(1)).view({-1, rows});
  const at::Tensor is_absent = target.select(1, 0).isinf(), is_empty = lse.select(1, 0).isinf();
  const at::Tensor first = lse.select(1, 0).masked_fill(is_empty, 1) * further.select(1, 0);
  const at::Tensor shares = (further + target - lse).masked_fill(is_absent.unsqueeze(1), 0);
  at::Tensor loss = first - at::logsumexp(shares, 1).masked_fill(is_absent, 0);
  const at::Tensor ids = at::arange(logits.size(1)), limits = ranges.repeat_interleave(rows, 0);
  for (std::int64_t range = 0; range < ranges.size(1); ++range) {
    const at::Tensor begin = limits.select(1, range).select(1, 0), end = limits.select(1, range).select(1, 1);
    const at::Tensor within = ids.ge(begin.unsqueeze(1)).logical_and(ids.lt(end.unsqueeze(1)));
    const at::Tensor there = at::logsumexp(logits.masked_fill(~within, -INFINITY), 1);
    loss = loss + there.masked_fill(there.isinf(), 0).square().view({-1, rows}).sum(1) / 2;
  }
  return loss;
}

/// LinearPieces, one after another.
at::Tensor bent(const at::Tensor& logits, const at::Tensor& slopes, double step) {
  const std::int64_t count = slopes.size(0);
  at::Tensor sum = at::zeros_like(logits);
  for (std::int64_t piece = 0; piece < count; ++piece) {
    const double low = double(piece - count / 2) * step, high = low + step;
    const at::Tensor share = logits.clamp(piece == 0 ? -INFINITY : low, piece + 1 == count ? INFINITY : high);
    sum = sum + slopes[piece] * (share - (low < 0 ? high : low));
  }
  return sum;
}

/// Rows that are made of `source` [n, D] and `gains` [C + 1, D]: features tanh(source gain_c) of C runs of words, and
/// the further number source . gain_C.
MadeRows::Block some_rows(const at::Tensor& source, const at::Tensor& gains) {
  std::vector<at::Tensor> features;
  for (std::int64_t index = 0; index + 1 < gains.size(0); ++index) features.push_back((source * gains[index]).tanh());
  return {features, (source * gains[gains.size(0) - 1]).sum(1, /*keepdim=*/true)};
}

struct TokenLossCase {
  at::ScalarType type;
  std::int64_t tokens, rows, vocab_size, width;
  bool bias, absent;
  LogitTransform transform = {};
  std::int64_t pieces = 0;
  std::vector<std::int64_t> feature_ends = {};
  std::int64_t ranges = 0;
  bool unit_rows = false;
  bool made = false;  // by some_rows, from what is otherwise hidden and further
};

void compare(const TokenLossCase& one) {
  SCOPED_TRACE(testing::Message() << one.type << " N " << one.tokens << " K " << one.rows << " V " << one.vocab_size);
  RandomStream random(5, "linear_token_loss");
  const at::ScalarType wide = one.type == at::kDouble ? at::kDouble : at::kFloat;
  const auto drawn = [&](at::IntArrayRef sizes, at::ScalarType type) {
    return normal(sizes, random).to(type).requires_grad_();
  };
  const auto features = std::max<std::int64_t>(1, std::int64_t(one.feature_ends.size()));
  TokenLossProblem problem{.hidden = drawn({features * one.tokens * one.rows, one.width}, one.type),
                           .map = {drawn({one.vocab_size, one.width}, one.type), {}, one.transform},
                           .targets = at::zeros({one.tokens}, at::kLong),
                           .further = drawn({one.tokens, one.rows}, wide),
                           .loss = [&one](std::int64_t, const TokenTerms& terms,
                                          const TokenSlopes& by) { return some_loss(one.rows, one.ranges, terms, by); },
                           .feature_ends = one.feature_ends};
  std::vector<at::Tensor> inputs = {problem.hidden, problem.map.weight, problem.further};
  if (one.made) {
    inputs[0] = drawn({one.tokens, one.width}, one.type), inputs[2] = drawn({features + 1, one.width}, one.type);
    problem.hidden = problem.further = at::Tensor();
    problem.made = {.by_token = {inputs[0]},
                    .shared = {inputs[2]},
                    .make = [](std::int64_t, std::int64_t, const MadeRows::Tensors& tokens,
                               const MadeRows::Tensors& shared) { return some_rows(tokens[0], shared[0]); },
                    .further_count = 1};
  }
  const at::Tensor ranges = at::zeros({one.tokens, one.ranges, 2}, at::kLong);
  for (std::int64_t index = 0; index < one.tokens * one.ranges; ++index) {
    std::int64_t* words = ranges.mutable_data_ptr<std::int64_t>() + 2 * index;
    for (int which = 0; which < 2; ++which)
      words[which] = std::int64_t(random.below(std::uint64_t(one.vocab_size + 1)));
    std::sort(words, words + 2);  // now and then there are none
  }
  if (one.ranges > 0) problem.ranges = ranges;
  problem.unit_rows = one.unit_rows;
  if (one.bias) problem.map.bias = drawn({one.vocab_size}, wide);
  at::Tensor absent = at::zeros({one.tokens * one.rows, one.vocab_size}, at::kBool);
  for (std::int64_t token = 0; token < one.tokens; ++token)
    problem.targets.mutable_data_ptr<std::int64_t>()[token] = std::int64_t(random.below(std::uint64_t(one.vocab_size)));
  if (one.absent) {
    problem.absent_begin.push_back(0);
    for (std::int64_t row = 0; row < absent.size(0); ++row) {
      const double share = row == 0 ? 1 : 0.3;  // the first row has no words at all
      for (std::int64_t id = 0; id < one.vocab_size; ++id)
        if (random.uniform() < share) {
          problem.absent.push_back(id);
          absent.mutable_data_ptr<bool>()[row * one.vocab_size + id] = true;
        }
      problem.absent_begin.push_back(std::int64_t(problem.absent.size()));
    }
  }
  ASSERT_TRUE(linear_token_loss_takes(problem));

  if (one.pieces > 0) {
    problem.slopes = drawn({one.pieces}, wide).detach().mul(0.5).exp().requires_grad_();
    problem.knot_step = 0.8;
  }

  // In float64 from the same numbers.
  std::vector<at::Tensor> exact;
  if (one.bias) inputs.push_back(problem.map.bias);
  if (one.pieces > 0) inputs.push_back(problem.slopes);
  for (const at::Tensor& input : inputs) exact.push_back(input.detach().to(at::kDouble).requires_grad_());
  const at::Tensor lengths = (exact[1].square().sum(1, /*keepdim=*/true) + 1e-12 * double(one.width)).sqrt();
  const LinearMap map{one.unit_rows ? exact[1] / lengths : exact[1], one.bias ? exact[3] : at::Tensor(), one.transform};
  const MadeRows::Block given = one.made ? some_rows(exact[0], exact[2]) : MadeRows::Block{{exact[0]}, exact[2]};
  at::Tensor straight = linear_logits(at::cat(given.features), map);
  if (features > 1) {
    std::vector<at::Tensor> parts;
    for (std::int64_t index = 0, begin = 0; index < features; begin = one.feature_ends[index++])
      parts.push_back(straight.chunk(features)[index].slice(1, begin, one.feature_ends[index]));
    straight = at::cat(parts, 1);
  }
  const at::Tensor logits =
      (one.pieces > 0 ? bent(straight, exact.back(), problem.knot_step) : straight).masked_fill(absent, -INFINITY);
  const at::Tensor want = plain_loss(logits, problem.targets, given.further, ranges);

  // A logit's rounding is multiplied by the slope of its piece, and is a relative error of its probability.
  const double steepest = one.pieces > 0 ? std::max(1.0, problem.slopes.max().item<double>()) : 1;
  const double tolerance = steepest * (one.type == at::kDouble ? 1e-12 : one.type == at::kFloat ? 2e-5 : 0.06);
  const auto expect_close = [&](const at::Tensor& got, const at::Tensor& should, const char* what) {
    ASSERT_TRUE(got.defined()) << what;
    const double error = (got.to(at::kDouble) - should).norm().item<double>();
    EXPECT_LE(error, tolerance * (1e-3 + should.norm().item<double>())) << what;
  };
  const at::Tensor upstream = normal({one.tokens}, random).to(wide);
  for (const Reduction reduction : {Reduction::kNone, Reduction::kMean, Reduction::kSum}) {
    for (const auto* list : {&inputs, &exact})
      for (const at::Tensor& tensor : *list) tensor.mutable_grad() = at::Tensor();
    const at::Tensor got = linear_token_loss(problem, reduction);
    EXPECT_EQ(got.scalar_type(), wide);
    if (reduction == Reduction::kNone) {
      expect_close(got.detach(), want.detach(), "losses");
      (got * upstream).sum().backward();
      (want * upstream).sum().backward({}, /*retain_graph=*/true);
    } else {
      const at::Tensor whole = reduction == Reduction::kMean ? want.mean() : want.sum();
      expect_close(got.detach(), whole.detach(), "loss");
      (got * 1.7).backward();
      (whole * 1.7).backward({}, /*retain_graph=*/true);
    }
    for (std::size_t index = 0; index < inputs.size(); ++index)
      expect_close(inputs[index].grad(), exact[index].grad(),
                   index == 0               ? "hidden"
                   : index == 1             ? "weight"
                   : index == 2             ? "further"
                   : index == 3 && one.bias ? "bias"
                                            : "slopes");
  }
}

TEST(LinearTokenLoss, IsThePlainComposition) {
  at::set_num_threads(2);
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({type, 7, 1, 13, 5, true, false});
    compare({type, 5, 3, 65, 4, false, false, {.scale = 0.5}});
    compare({type, 211, 3, 2000, 9, true, false, {.softcap = 3}});  // blocks must end with a token
    compare({type, 70, 7, 9000, 65, false, false});                 // threads share the vocabulary
  }
}

TEST(LinearTokenLoss, BendsLogitsByPiecesWhoseSlopesHaveGradients) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({type, 7, 1, 13, 5, true, false, {}, 2});
    compare({type, 211, 1, 2000, 9, false, false, {}, 8});
    compare({type, 20, 3, 9000, type == at::kBFloat16 ? 5 : 33, true, false, {}, 32});
  }
}

TEST(LinearTokenLoss, AbsentWordsStandInNoDistribution) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({type, 9, 1, 4, 3, false, true});
    compare({type, 600, 1, 2100, 5, true, true, {.scale = 2}});
    compare({type, 33, 1, 9000, 65, false, true});
  }
}

TEST(LinearTokenLoss, WordsSeeFeaturesOfTheirRun) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({type, 7, 1, 13, 5, true, false, {}, 0, {4, 4, 13}});  // a run without words
    compare({type, 150, 1, 2000, 9, true, true, {.scale = 0.5}, 0, {1, 977, 2000}});
    compare({type, 75, 2, 2000, 9, false, false, {}, 0, {977, 2000}});
    compare({type, 90, 1, 9000, 65, false, false, {.softcap = 3}, 0, {100, 9000}});
  }
}

TEST(LinearTokenLoss, RowsCountAtLengthOne) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({type, 7, 1, 13, 5, false, false, {}, 0, {}, 0, true});
    compare({type, 75, 2, 2000, 9, false, false, {.scale = 4}, 0, {977, 2000}, 2, true});
    compare({type, 300, 1, 9000, 65, false, true, {.scale = 20}, 0, {}, 0, true});
  }
}

TEST(LinearTokenLoss, RowsMayBeMadeBlockByBlock) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({.type = type, .tokens = 7, .rows = 1, .vocab_size = 13, .width = 5, .bias = true, .made = true});
    compare({type, 520, 1, 60, 300, true, false, {}, 0, {20, 60}, 0, false, true});  // blocks are made in parts
    compare(
        {type, 1100, 1, 900, 9, true, true, {.scale = 0.5}, 0, {1, 577, 900}, 3, false, true});  // threads share rows
    compare(
        {type, 520, 1, 8200, 5, false, false, {.softcap = 3}, 0, {100, 8200}, 0, false, true});  // and the vocabulary
  }
  at::set_num_threads(1);
  compare({at::kFloat, 1100, 1, 900, 9, true, true, {.scale = 0.5}, 0, {1, 577, 900}, 3, false, true});
  at::set_num_threads(2);
}

TEST(LinearTokenLoss, WhatRowsAreMadeOfNeedNoGradient) {
  // One input of each kind alone has a gradient, or the weight has.
  const at::Tensor targets = at::arange(6);
  for (int which = 0; which < 3; ++which) {
    std::vector<at::Tensor> inputs = {at::ones({6, 4}) * 0.3, at::ones({2, 4}) * 0.5,
                                      at::arange(28).view({7, 4}) * 0.1};
    inputs[std::size_t(which)].requires_grad_();
    TokenLossProblem problem{.map = {inputs[2]},
                             .targets = targets,
                             .loss = [](std::int64_t, const TokenTerms& terms, const TokenSlopes& by) {
                               *by.logsumexp = 1, *by.target_logit = -1, by.further[0] = 2;
                               return *terms.logsumexp - *terms.target_logit + 2 * terms.further[0];
                             }};
    problem.made = {.by_token = {inputs[0]},
                    .shared = {inputs[1]},
                    .make = [](std::int64_t, std::int64_t, const MadeRows::Tensors& tokens,
                               const MadeRows::Tensors& shared) { return some_rows(tokens[0], shared[0]); },
                    .further_count = 1};
    for (const Reduction reduction : {Reduction::kNone, Reduction::kSum}) {
      inputs[std::size_t(which)].mutable_grad() = at::Tensor();
      linear_token_loss(problem, reduction).sum().backward();
      const at::Tensor got = inputs[std::size_t(which)].grad().clone();
      inputs[std::size_t(which)].mutable_grad() = at::Tensor();
      const MadeRows::Block rows = some_rows(inputs[0], inputs[1]);
      const at::Tensor logits = rows.features[0].matmul(inputs[2].t());
      (at::logsumexp(logits, 1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1) + 2 * rows.further.squeeze(1))
          .sum()
          .backward();
      EXPECT_TRUE(at::allclose(got, inputs[std::size_t(which)].grad(), 1e-5, 1e-6)) << which << "\n" << got;
    }
  }
}

TEST(LinearTokenLoss, RangesHaveLogsumexpsOfTheirOwn) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    compare({type, 7, 1, 13, 5, true, false, {}, 0, {}, 2});
    compare({type, 150, 1, 2000, 9, true, true, {.scale = 0.5}, 0, {1, 977, 2000}, 3});
    compare({type, 75, 2, 2000, 9, false, false, {}, 0, {977, 2000}, 2});
    compare({type, 90, 1, 9000, 65, false, false, {}, 0, {}, 1});
  }
}

TEST(LinearTokenLoss, ARangeFarBelowTheLargestLogitHasFiniteGradients) {
  // e^(max - logsumexp of the range) is beyond float32, the probabilities within the range are not.
  at::Tensor weight = at::zeros({4, 1});
  weight[0].fill_(300), weight[3].fill_(-2);
  const at::Tensor ranges = at::tensor({2, 4}, at::kLong).view({1, 1, 2});
  weight.requires_grad_();
  TokenLossProblem problem{at::ones({1, 1}),
                           {weight},
                           at::zeros({1}, at::kLong),
                           at::zeros({1, 0}),
                           [](std::int64_t, const TokenTerms& terms, const TokenSlopes& by) {
                             by.range_logsumexp[0] = 1;
                             return terms.range_logsumexp[0];
                           }};
  problem.ranges = ranges;
  const at::Tensor loss = linear_token_loss(problem, Reduction::kSum);
  EXPECT_NEAR(loss.item<double>(), std::log1p(std::exp(-2)), 1e-6);
  loss.backward();
  const double share = 1 / (1 + std::exp(-2));
  EXPECT_TRUE(at::allclose(weight.grad().view({-1}), at::tensor({0.0, 0.0, share, 1 - share}, at::kFloat)))
      << weight.grad();
}

TEST(LinearTokenLoss, RefusesWhatDoesNotFit) {
  const auto loss = [](std::int64_t, const TokenTerms&, const TokenSlopes&) { return 0.0; };
  const at::Tensor hidden = at::zeros({6, 4}), weight = at::zeros({5, 4}), further = at::zeros({3, 0});
  const auto run = [&](const at::Tensor& ids, const LinearMap& map, const at::Tensor& more) {
    return linear_token_loss({hidden, map, ids, more, loss}, Reduction::kMean);
  };
  const at::Tensor ids = at::zeros({3}, at::kLong);
  EXPECT_ERROR(run(at::zeros({4}, at::kLong), {weight}, further), "hidden must be [N K, D] for N = 4, got [6, 4]");
  EXPECT_ERROR(run(ids + 5, {weight}, further), "targets must lie in [0, 5), got 5");
  EXPECT_ERROR(run(ids, {at::zeros({5, 3})}, further), "weight must be Float [V, 4]");
  EXPECT_ERROR(run(ids, {weight}, at::zeros({2, 1})), "further must be [3, S], got [2, 1]");
  EXPECT_ERROR(linear_token_loss({.map = {weight}, .targets = ids, .further = further, .loss = loss}, Reduction::kMean),
               "hidden must be defined where no rows are made, and only there");
  TokenLossProblem wrong{hidden, {weight}, ids, further, loss};
  wrong.feature_ends = {3, 4};
  EXPECT_ERROR(linear_token_loss(wrong, Reduction::kMean), "feature_ends must ascend to V = 5, got [3, 4]");
  wrong.feature_ends = {};
  wrong.ranges = at::zeros({3, 2}, at::kLong);
  EXPECT_ERROR(linear_token_loss(wrong, Reduction::kMean),
               "ranges must be int64 [3, R, 2] of linear logits, got [3, 2]");
  TokenLossProblem odd{hidden, {weight}, ids, further, loss};
  odd.slopes = at::ones({3});
  EXPECT_ERROR(linear_token_loss(odd, Reduction::kMean), "slopes must be an even number of at most 32");
}

}  // namespace
}  // namespace lmhead
