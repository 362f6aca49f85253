// Rows of rare words beside a group of that rate, and those of other words bit for bit.
#include "lmhead/train/row_rates.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "tests/data/data_fixtures.h"
#include "tests/train/optimizer_fixtures.h"

namespace lmhead {
namespace {

constexpr std::size_t kEmbedding = 0, kHead = 4;

/// The head's group alone; words from rank 4 on are rare.
OptimizerOptions options_with(double rate_scale, double rare_scale, bool rare = true) {
  OptimizerOptions options;
  options.groups.resize(2);
  options.groups[0].pattern = "lm_head.weight";
  options.groups[0].learning_rate_scale = rate_scale;
  if (rare) options.groups[0].rare_from = 4;
  options.groups[0].rare_learning_rate_scale = rare_scale;
  options.groups[1].pattern = "model.embed*";
  return options;
}

/// By rank: 7, 2, 10 (5 times each, ties by id: 2, 7, 10), then the others.
at::Tensor counts() { return at::tensor({0, 1, 5, 2, 1, 0, 3, 5, 0, 1, 5}, at::kLong); }
const std::vector<std::int64_t> kFrequent = {2, 7, 10};

std::unique_ptr<Optimizer> make(const OptimizerOptions& options, const ParameterList& parameters) {
  return with_row_rates(make_optimizer(options, parameters), options, parameters,
                        {parameters[kEmbedding], parameters[kHead]}, counts);
}

at::Tensor head_after_steps(Optimizer& optimizer, const ParameterList& parameters) {
  for (std::int64_t step = 1; step <= 4; ++step) {
    std::vector<at::Tensor> gradients(parameters.size());
    gradients[kHead] = normal({11, 4}, "gradient", std::uint64_t(step)).to(at::kFloat);
    optimizer.step(gradients, step, 1.0 / double(step));
  }
  return parameters[kHead]->value.detach();
}

TEST(RowRates, RareRowsMoveAsWithARateOfTheirOwnAndOthersKeepTheirBits) {
  ParameterList parameters = make_parameters();
  const at::Tensor both = head_after_steps(*make(options_with(2, 7), parameters), parameters);
  parameters = make_parameters();
  const at::Tensor slow = head_after_steps(*make_optimizer(options_with(2, 7, false), parameters), parameters);
  parameters = make_parameters();
  const at::Tensor fast = head_after_steps(*make_optimizer(options_with(14, 1, false), parameters), parameters);
  for (std::int64_t id = 0; id < 11; ++id) {
    if (std::ranges::find(kFrequent, id) != kFrequent.end()) {
      EXPECT_TRUE(at::equal(both[id], slow[id])) << id;
    } else {
      // AdamW is of each number by itself. The rounding of a value below 2 is made 7 times as large, four times.
      EXPECT_LE((both[id] - fast[id]).abs().max().item<double>(), 4 * 7 * 1.2e-7) << id;
      EXPECT_GE((both[id] - slow[id]).abs().max().item<double>(), 1e-2) << id;
    }
  }
}

TEST(RowRates, AScaleOfNoughtHoldsRareRows) {
  const ParameterList parameters = make_parameters();
  const at::Tensor before = parameters[kHead]->value.detach().clone();
  const at::Tensor after = head_after_steps(*make(options_with(1, 0), parameters), parameters);
  for (std::int64_t id = 0; id < 11; ++id) {
    const bool is_frequent = std::ranges::find(kFrequent, id) != kFrequent.end();
    const double moved = (after[id] - before[id]).abs().max().item<double>();
    if (is_frequent) {
      EXPECT_GE(moved, 1e-3) << id;
    } else {
      EXPECT_LE(moved, 4 * 1.2e-7) << id;
    }
  }
}

TEST(RowRates, AShareOfTheRowsIsScaledAsInTheWhole) {
  ParameterList parameters = make_parameters();
  const at::Tensor whole = head_after_steps(*make(options_with(2, 7), parameters), parameters).clone();
  const Share share{.index = 1, .count = 2};
  const std::int64_t first = share.begin(11), rows = share.end(11) - first;
  parameters = make_parameters();
  Parameter& head = *parameters[kHead];
  head.value = head.working = head.value.detach().narrow(0, first, rows).clone();
  const OptimizerOptions options = options_with(2, 7);
  const auto optimizer = with_row_rates(make_optimizer(options, parameters), options, parameters,
                                        {parameters[kEmbedding], parameters[kHead]}, counts, share);
  for (std::int64_t step = 1; step <= 4; ++step) {
    std::vector<at::Tensor> gradients(parameters.size());
    gradients[kHead] = normal({11, 4}, "gradient", std::uint64_t(step)).to(at::kFloat).narrow(0, first, rows).clone();
    optimizer->step(gradients, step, 1.0 / double(step));
  }
  EXPECT_TRUE(at::equal(head.value, whole.narrow(0, first, rows)));
}

TEST(RowRates, OnlyMatricesWithARowAWordAndDataWithCounts) {
  const ParameterList parameters = make_parameters();
  const OptimizerOptions options = options_with(1, 2);
  const auto make_with = [&](const ParameterList& word_rows, const std::function<at::Tensor()>& token_counts) {
    return with_row_rates(make_optimizer(options, parameters), options, parameters, word_rows, token_counts);
  };
  EXPECT_ERROR(make_with({parameters[kEmbedding]}, counts),
               "optimizer.groups.0.rare_from must be for matrices that have a row for each word, got lm_head.weight");
  EXPECT_ERROR(make_with({parameters[kHead]}, [] { return at::Tensor(); }), "data whose tokens are counted");
}

TEST(RowRates, WithoutAGroupThatAsksForThemTheOptimizerIsLeftAlone) {
  const ParameterList parameters = make_parameters();
  const OptimizerOptions options = options_with(1, 2, false);
  auto optimizer = make_optimizer(options, parameters);
  const Optimizer* const plain = optimizer.get();
  EXPECT_EQ(with_row_rates(std::move(optimizer), options, parameters, {}, counts).get(), plain);
}

}  // namespace
}  // namespace lmhead
