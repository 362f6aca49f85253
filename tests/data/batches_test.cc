#include "lmhead/data/batches.h"

#include <ATen/ops/equal.h>

#include <nlohmann/json.hpp>
#include <set>

#include "data_fixtures.h"
#include "lmhead/data/token_batches.h"

namespace lmhead {
namespace {

std::vector<std::int64_t> values(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<std::int64_t>();
  return {data, data + tensor.numel()};
}

/// A nanoGPT folder whose ids are their own positions, so that a window tells where it came from.
void write_counting(const ScratchFolder& folder, std::int64_t train, std::int64_t validation) {
  write_ids<std::uint16_t>(folder / "train.bin", counting(train));
  write_ids<std::uint16_t>(folder / "val.bin", counting(validation));
}

std::unique_ptr<BatchSource> open_counting(const ScratchFolder& folder, std::uint64_t seed, std::int64_t length,
                                           std::int64_t batch_size, std::int64_t micro_batches = 1,
                                           std::int64_t validation_tokens = 65536) {
  DataOptions options;
  options.path = folder.path();
  options.sequence_length = length;
  options.batch_size = batch_size;
  options.micro_batches = micro_batches;
  options.validation_tokens = validation_tokens;
  return open_batches(options, seed, 65536);
}

TEST(TokenBatches, TargetsAreTheTokensOneFurther) {
  ScratchFolder folder;
  write_counting(folder, 1000, 100);
  const auto source = open_counting(folder, 1, 7, 5);
  const Batch batch = source->training_batch(3);
  EXPECT_EQ(batch.tokens.sizes(), (at::IntArrayRef{5, 7}));
  EXPECT_EQ(batch.targets.sizes(), (at::IntArrayRef{35}));
  const auto tokens = values(batch.tokens), targets = values(batch.targets);
  for (std::size_t index = 0; index < tokens.size(); ++index) {
    EXPECT_EQ(targets[index], tokens[index] + 1);
    if (index % 7 != 0) {
      EXPECT_EQ(tokens[index], tokens[index - 1] + 1);
    }
  }
}

TEST(TokenBatches, AnEpochVisitsEveryWindowOnceAndTheNextFromAnotherOffset) {
  for (const std::int64_t size : {8, 9, 13, 14, 15, 20, 21, 22, 500, 1000}) {
    ScratchFolder folder;
    write_counting(folder, size, 100);
    const std::int64_t length = 7;
    const auto source = open_counting(folder, 5, length, 3);
    const std::int64_t windows = dynamic_cast<const TokenBatches&>(*source).windows_per_epoch();
    EXPECT_GE(windows * length, std::max(length, size - 2 * length));
    std::set<std::int64_t> offsets;
    std::set<std::vector<std::int64_t>> orders;
    for (std::int64_t epoch = 0; epoch < 8; ++epoch) {
      const auto tokens = values(source->training_sequences(epoch * windows, windows).tokens);
      std::set<std::int64_t> starts;
      std::vector<std::int64_t> order;
      for (std::int64_t row = 0; row < windows; ++row) {
        const std::int64_t start = tokens[std::size_t(row * length)];
        EXPECT_EQ(start % length, tokens[0] % length);
        starts.insert(start);
        order.push_back(start / length);
      }
      EXPECT_EQ(std::int64_t(starts.size()), windows);
      EXPECT_EQ(*starts.rbegin() - *starts.begin(), (windows - 1) * length);
      offsets.insert(*starts.begin());
      orders.insert(order);
    }
    EXPECT_GT(offsets.size(), size >= 14 ? 2U : 0U) << size;
    EXPECT_EQ(orders.size(), size >= 500 ? 8U : orders.size()) << size;
  }
}

TEST(TokenBatches, DependOnSeedAndStepOnly) {
  ScratchFolder folder;
  write_counting(folder, 5000, 100);
  const auto one = open_counting(folder, 1, 16, 4), same = open_counting(folder, 1, 16, 4),
             other = open_counting(folder, 2, 16, 4);
  const Batch late = one->training_batch(1000);
  one->training_batch(3);
  one->validation_batch(0);
  EXPECT_TRUE(at::equal(late.tokens, one->training_batch(1000).tokens));
  EXPECT_TRUE(at::equal(late.tokens, same->training_batch(1000).tokens));
  EXPECT_FALSE(at::equal(late.tokens, other->training_batch(1000).tokens));
  EXPECT_FALSE(at::equal(late.tokens, one->training_batch(1001).tokens));
  EXPECT_TRUE(at::equal(one->validation_batch(0).tokens, other->validation_batch(0).tokens));
}

TEST(TokenBatches, TheSeedOfTheOptionsReplacesTheRuns) {
  ScratchFolder folder;
  write_counting(folder, 5000, 200);
  DataOptions options;
  options.path = folder.path();
  options.seed = 4;
  const auto fixed = open_batches(options, 1, 65536), also_fixed = open_batches(options, 2, 65536);
  options.seed.reset();
  const auto run = open_batches(options, 4, 65536);
  EXPECT_TRUE(at::equal(fixed->training_batch(9).tokens, also_fixed->training_batch(9).tokens));
  EXPECT_TRUE(at::equal(fixed->training_batch(9).tokens, run->training_batch(9).tokens));
}

TEST(TokenBatches, MicroBatchesArePartsOfTheSameStep) {
  ScratchFolder folder;
  write_counting(folder, 1000, 100);
  const auto whole = open_counting(folder, 1, 10, 12), parts = open_counting(folder, 1, 10, 12, 3);
  for (const std::int64_t step : {0, 5, 70}) {
    std::vector<std::int64_t> together;
    for (std::int64_t part = 0; part < 3; ++part) {
      const Batch batch = parts->training_batch(step, part);
      EXPECT_EQ(batch.tokens.size(0), 4);
      for (const std::int64_t id : values(batch.tokens)) together.push_back(id);
    }
    EXPECT_EQ(together, values(whole->training_batch(step).tokens));
  }
  EXPECT_ERROR(open_counting(folder, 1, 10, 12, 5), "micro_batches must divide batch_size 12, got 5");
  EXPECT_ERROR(parts->training_batch(0, 3), "micro_batch must be from 0 to 2, got 3");
  EXPECT_ERROR(parts->training_batch(-1), "step must be from 0");
  EXPECT_ERROR(parts->training_batch(INT64_MAX), "step must be from 0");
}

TEST(TokenBatches, ValidationIsTheFirstTokensOfItsSplitInOrder) {
  ScratchFolder folder;
  write_counting(folder, 1000, 100);
  const auto source = open_counting(folder, 1, 10, 4, 1, 65);
  EXPECT_EQ(source->validation_targets(), 60);
  ASSERT_EQ(source->validation_batches(), 2);
  EXPECT_EQ(values(source->validation_batch(0).tokens), counting(40));
  EXPECT_EQ(values(source->validation_batch(1).targets), counting(20, 41));
  EXPECT_ERROR(source->validation_batch(2), "must be from 0 to 1, got 2");
  EXPECT_EQ(open_counting(folder, 1, 10, 4)->validation_targets(), 90);
  EXPECT_EQ(open_counting(folder, 1, 10, 4, 1, 1)->validation_targets(), 10);
  EXPECT_EQ(open_counting(folder, 1, 99, 4)->validation_targets(), 99);
}

TEST(TokenBatches, CountTheTokensOfTheTrainingSplit) {
  ScratchFolder folder;
  std::vector<std::int64_t> ids(70000);  // more than are counted at once
  for (std::size_t index = 0; index < ids.size(); ++index) ids[index] = index % 10 == 0 ? 2 : std::int64_t(index % 2);
  write_ids<std::uint16_t>(folder / "train.bin", ids);
  write_ids<std::uint16_t>(folder / "val.bin", counting(100));
  const auto source = open_counting(folder, 1, 7, 5);
  const at::Tensor counts = source->token_counts().value();
  ASSERT_EQ(counts.numel(), source->vocab_size());
  const auto count = values(counts);
  EXPECT_EQ(count[0], 28000);
  EXPECT_EQ(count[1], 35000);
  EXPECT_EQ(count[2], 7000);
  EXPECT_EQ(counts.sum().item<std::int64_t>(), 70000);
}

TEST(TokenBatches, SaysHowManyTokensASplitNeeds) {
  ScratchFolder folder;
  write_counting(folder, 30, 20);
  EXPECT_ERROR(open_counting(folder, 1, 30, 1),
               "the train split must have at least 31 tokens for one sequence of 30, got 30 in");
  EXPECT_ERROR(open_counting(folder, 1, 20, 1),
               "the validation split must have at least 21 tokens for one sequence of 20, got 20 in");
  EXPECT_EQ(values(open_counting(folder, 1, 19, 1)->validation_batch(0).targets), counting(19, 1));
}

TEST(TokenBatches, NameTheIdThatTheModelHasNoOutputFor) {
  ScratchFolder folder;
  write_counting(folder, 100, 100);
  DataOptions options;
  options.path = folder.path();
  options.sequence_length = 99;
  EXPECT_ERROR(open_batches(options, 1, 60),
               "train.bin: the id at position 60, read as uint16, must be below the vocabulary size 60, got 60: the "
               "vocabulary is another one, or the ids are uint32, which data.token_type=uint32 says");
  options.token_type = "uint32";
  EXPECT_ERROR(open_batches(options, 1, 60), "data.token_type=uint16 says");
}

TEST(DataOptions, AreCompleteAndStrict) {
  const DataOptions options = read_options<DataOptions>(
      Json::parse(R"({"kind":"spamlang","sequence_length":4,"spamlang":{"vocab_size":9,"shuffled_map":true}})"));
  EXPECT_EQ(options.spamlang.vocab_size, 9);
  EXPECT_EQ(open_batches(options, 1)->vocab_size(), 9);
  EXPECT_EQ(open_batches(options, 1, 20)->vocab_size(), 9);
  EXPECT_ERROR(open_batches(options, 1, 8), "model.vocab_size must be at least the 9 of spamlang.vocab_size, got 8");
  EXPECT_ERROR(read_options<DataOptions>(Json::parse(R"({"sequence_length":0})")), "at least 1");
  EXPECT_ERROR(read_options<DataOptions>(Json::parse(R"({"sequence_len":1})")), "did you mean sequence_length?");
  EXPECT_ERROR(open_batches(DataOptions{}, 1), "path must be the folder of a dataset, got \"\"");
}

}  // namespace
}  // namespace lmhead
