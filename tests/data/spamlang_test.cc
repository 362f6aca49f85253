#include "lmhead/data/spamlang.h"

#include <ATen/ops/equal.h>

#include <cmath>
#include <set>

#include "data_fixtures.h"

namespace lmhead {
namespace {

SpamlangBatches make(std::int64_t vocab_size, bool shuffled_map, std::uint64_t seed = 1, std::int64_t length = 4,
                     std::int64_t batch_size = 8, std::int64_t validation_tokens = 65536) {
  DataOptions options;
  options.kind = "spamlang";
  options.sequence_length = length;
  options.batch_size = batch_size;
  options.validation_tokens = validation_tokens;
  options.spamlang = {vocab_size, shuffled_map};
  return SpamlangBatches(options, seed);
}

TEST(Spamlang, RepeatsOneSymbolThroughASequence) {
  const auto source = make(100, false);
  const Batch batch = source.training_batch(5);
  EXPECT_EQ(batch.tokens.sizes(), (at::IntArrayRef{8, 4}));
  for (std::int64_t row = 0; row < 8; ++row)
    for (std::int64_t column = 0; column < 4; ++column)
      EXPECT_EQ(batch.tokens[row][column].item<std::int64_t>(), source.symbol(40 + row));
  EXPECT_TRUE(at::equal(batch.tokens.reshape({-1}), batch.targets));
}

TEST(Spamlang, TheShuffledMapIsAFixedPermutation) {
  const auto source = make(1000, true);
  std::set<std::int64_t> images;
  int fixed = 0;
  for (std::int64_t symbol = 0; symbol < 1000; ++symbol) {
    images.insert(source.target_of(symbol));
    fixed += source.target_of(symbol) == symbol;
  }
  EXPECT_EQ(images.size(), 1000U);
  EXPECT_LT(fixed, 12);  // Poisson of mean 1
  const Batch batch = source.training_batch(2);
  const auto* tokens = batch.tokens.const_data_ptr<std::int64_t>();
  const auto* targets = batch.targets.const_data_ptr<std::int64_t>();
  for (std::int64_t index = 0; index < batch.targets.numel(); ++index)
    EXPECT_EQ(targets[index], source.target_of(tokens[index]));
  EXPECT_EQ(source.target_of(7), make(1000, true).target_of(7));
}

TEST(Spamlang, DrawsSymbolsUniformlyAndBySeed) {
  constexpr int kDraws = 50000, kSymbols = 10;
  const auto source = make(kSymbols, false);
  int counts[kSymbols] = {};
  for (int sequence = 0; sequence < kDraws; ++sequence) ++counts[source.symbol(sequence)];
  const double share = 1.0 / kSymbols;
  for (const int count : counts) EXPECT_NEAR(count, kDraws * share, 5 * std::sqrt(kDraws * share * (1 - share)));
  EXPECT_TRUE(at::equal(source.training_batch(9).tokens, make(kSymbols, true).training_batch(9).tokens));
  EXPECT_FALSE(at::equal(make(1000, false, 1).training_batch(9).tokens, make(1000, false, 2).training_batch(9).tokens));
}

TEST(Spamlang, CoverageFollowsTheClosedForm) {
  const std::int64_t vocab_size = 2000, batch_size = 50;
  const auto source = make(vocab_size, false, 3, 1, batch_size);
  for (const std::int64_t steps : {0, 1, 40, 200}) {
    const Coverage coverage = source.coverage(steps).value();
    const double draws = double(steps * batch_size);
    EXPECT_EQ(coverage.draws, steps * batch_size);
    EXPECT_DOUBLE_EQ(coverage.draws_per_symbol, draws / double(vocab_size));
    const double expected = 1 - std::pow(1 - 1 / double(vocab_size), draws);
    EXPECT_NEAR(coverage.share_seen, expected, 5 * std::sqrt(expected * (1 - expected) / double(vocab_size)) + 1e-12);
    EXPECT_DOUBLE_EQ(coverage.seen_targets.sum().item<double>(), coverage.share_seen * double(vocab_size));
  }
}

TEST(Spamlang, SeenTargetsAreExactlyTheTargetsOfTraining) {
  const auto source = make(300, true);
  const Coverage coverage = source.coverage(6).value();
  std::set<std::int64_t> targets;
  for (std::int64_t step = 0; step < 6; ++step) {
    const Batch batch = source.training_batch(step);
    const auto* data = batch.targets.const_data_ptr<std::int64_t>();
    targets.insert(data, data + batch.targets.numel());
  }
  for (std::int64_t symbol = 0; symbol < 300; ++symbol)
    EXPECT_EQ(coverage.seen_targets[symbol].item<bool>(), targets.count(symbol) == 1) << symbol;
}

TEST(Spamlang, ValidationIsEverySymbolOnceOrThatManyDifferentOnes) {
  const auto symbols = [](const SpamlangBatches& source) {
    std::multiset<std::int64_t> result;
    for (std::int64_t index = 0; index < source.validation_batches(); ++index) {
      const at::Tensor tokens = source.validation_batch(index).tokens;
      for (std::int64_t row = 0; row < tokens.size(0); ++row) result.insert(tokens[row][0].item<std::int64_t>());
    }
    return result;
  };
  const auto everything = symbols(make(100, false));
  EXPECT_EQ(everything.size(), 100U);
  EXPECT_EQ(std::set<std::int64_t>(everything.begin(), everything.end()).size(), 100U);
  const auto some = symbols(make(100, false, 1, 4, 8, 120));
  EXPECT_EQ(some.size(), 30U);
  EXPECT_EQ(std::set<std::int64_t>(some.begin(), some.end()).size(), 30U);
  EXPECT_EQ(make(100, false, 1, 4, 8, 120).validation_targets(), 120);
  EXPECT_FALSE(make(100, false).validation_bytes_per_token());
}

TEST(Spamlang, NamesTellLanguagesApart) {
  EXPECT_EQ(make(100, false).content_hash(), "spamlang-100-repeated");
  EXPECT_EQ(make(100, true).content_hash(), "spamlang-100-shuffled-map");
  EXPECT_EQ(make(100, true).tokenizer_hash(), "spamlang-100");
  EXPECT_EQ(make(1, true).training_batch(0).tokens.sum().item<std::int64_t>(), 0);
}

}  // namespace
}  // namespace lmhead
