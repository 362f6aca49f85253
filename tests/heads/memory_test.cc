// No head's training step holds the logits of its tokens.
#include <gtest/gtest.h>

#include "tests/heads/allocation_meter.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

/// Bytes at the peak of a forward and backward pass, gradients included, parameters and inputs not.
std::int64_t training_peak(Bench& bench) {
  return AllocationMeter::peak_of([&] {
    bench.require_gradients();
    bench.head->loss(bench.input(), bench.targets).backward();
  });
}

std::int64_t bytes_of(const ParameterList& parameters) {
  std::int64_t bytes = 0;
  for (const ParameterPtr& parameter : parameters) bytes += 4 * parameter->value.numel();
  return bytes;
}

TEST(AllocationMeter, CountsWhatIsHeldAtOnce) {
  at::Tensor kept;
  const std::int64_t peak = AllocationMeter::peak_of([&] {
    for (int time = 0; time < 3; ++time) kept = at::zeros({1000});  // the next before the last is gone
  });
  EXPECT_GE(peak, 8000);
  EXPECT_LE(peak, 8000 + 512);
}

TEST(HeadMemory, OfATrainingStepIsThatOfTheLinearHeadAndWhatTheHeadSays) {
  // The linear head takes a block of logits of 128 MiB at most, so N V must be well above that.
  constexpr Shape kShape = {2048, 32768, 8};
  constexpr double kLogits = 4.0 * kShape.rows * kShape.vocab_size;
  at::set_num_threads(2);
  Bench linear("linear", {Json::object()}, kShape);
  const double linear_peak = double(training_peak(linear) - bytes_of(linear.all));
  EXPECT_LT(linear_peak, 0.6 * kLogits);
  for (const HeadKind& kind : head_kinds()) {
    const Case last = entries().at(kind.type).cases(kShape.hidden_size).back();
    SCOPED_TRACE(testing::Message() << kind.type << ' ' << last.options.dump());
    Bench bench(kind.type, last, kShape);
    const double peak = double(training_peak(bench) - bytes_of(bench.all));
    EXPECT_LE(peak, 1.5 * linear_peak + 4 * kShape.rows * bench.head->memory_per_token(bench.tokens.size(1)));
    EXPECT_LT(peak, 0.9 * kLogits);
  }
}

/// Bytes at the peak beyond the gradients of parameters and inputs.
double peak_beyond_gradients(const char* type, const Json& options, const Shape& shape) {
  Case one;
  one.options = options;
  Bench bench(type, one, shape);
  std::int64_t of_inputs = bench.hidden.numel();
  for (const at::Tensor& layer : bench.layers) of_inputs += layer.numel();
  return double(training_peak(bench) - bytes_of(bench.all) - 4 * of_inputs);
}

TEST(HeadMemory, WhatIsMadeForEveryTokenIsMadeForABlockOfTokens) {
  at::set_num_threads(1);
  constexpr Shape kMany = {8192, 8192, 128};
  const double features = 4.0 * 16 * kMany.rows * kMany.hidden_size;  // of 16 blocks of words
  EXPECT_LT(peak_beyond_gradients("depth_tapped", Json{{"blocks", 16}}, kMany),
            peak_beyond_gradients("linear", Json::object(), kMany) + 0.75 * features);
  constexpr Shape kLong = {4096, 8192, 32};
  const double products = 4.0 * kLong.rows * kLong.rows / 2;  // of two sequences
  EXPECT_LT(peak_beyond_gradients("multi_facet", Json::object(), kLong),
            peak_beyond_gradients("linear", Json::object(), kLong) + 2 * products);
  at::set_num_threads(2);
}

TEST(HeadMemory, WordsOfTheContextBringNoSecondGradientOfAllWords) {
  constexpr Shape kFew = {64, 16384, 256};
  EXPECT_LT(peak_beyond_gradients("multi_facet", Json::object(), kFew),
            peak_beyond_gradients("linear", Json::object(), kFew) + 0.3 * 4.0 * kFew.vocab_size * kFew.hidden_size);
}

TEST(HeadMemory, TokenLossesKeepNoLogits) {
  constexpr Shape kShape = {512, 32768, 8};
  for (const HeadKind& kind : head_kinds()) {
    const Case last = entries().at(kind.type).cases(kShape.hidden_size).back();
    SCOPED_TRACE(testing::Message() << kind.type << ' ' << last.options.dump());
    Bench bench(kind.type, last, kShape);
    const double peak = double(AllocationMeter::peak_of([&] {
                                 bench.require_gradients();
                                 bench.head->token_losses(bench.input(), bench.targets).sum().backward();
                               }) -
                               bytes_of(bench.all));
    EXPECT_LT(peak, 0.5 * 4.0 * kShape.rows * kShape.vocab_size);
  }
}

}  // namespace
}  // namespace lmhead
