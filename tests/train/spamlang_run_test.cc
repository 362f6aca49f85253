// The dedicated small model of SpamLang, an embedding and a head, in a real run.
#include <gtest/gtest.h>

#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

Json spamlang_configuration(std::int64_t sequence_length, std::int64_t steps) {
  return {{"data",
           {{"kind", "spamlang"},
            {"sequence_length", sequence_length},
            {"batch_size", 32},
            {"validation_tokens", 1 << 20},
            {"spamlang", {{"vocab_size", 40}, {"shuffled_map", true}}}}},
          {"model",
           {{"hidden_size", 16},
            {"num_hidden_layers", 0},
            {"num_attention_heads", 2},
            {"norm", "none"},
            {"position", "none"}}},
          {"optimizer", {{"learning_rate", 0.05}, {"weight_decay", 0}}},
          {"training", {{"steps", steps}, {"threads", 1}, {"validate_every", 0}}}};
}

Json final_validation(const Json& configuration, const std::filesystem::path& folder) {
  Trainer trainer = make_trainer(configuration, folder);
  Json last;
  trainer.run({.on_step = [&](const StepRecord& record) { last = to_json(record); }});
  EXPECT_EQ(trainer.model().parameters().size(), 2u);  // embedding and head
  return last.at("validation");
}

TEST(SpamlangRun, AnEmbeddingAndAHeadLearnTheMapTheySee) {
  const ScratchFolder scratch;
  const Json validation = final_validation(spamlang_configuration(1, 100), scratch / "run");
  const Json& coverage = validation.at("coverage");
  EXPECT_DOUBLE_EQ(coverage.at("draws_per_symbol").get<double>(), 100 * 32 / 40.0);
  EXPECT_DOUBLE_EQ(coverage.at("share_seen").get<double>(), 1);
  EXPECT_DOUBLE_EQ(coverage.at("seen_accuracy").get<double>(), 1);
  EXPECT_TRUE(coverage.at("unseen_accuracy").is_null());
  EXPECT_DOUBLE_EQ(validation.at("top1_accuracy").get<double>(), 1);
}

TEST(SpamlangRun, WhatWasNeverSeenStaysUnknownHoweverLongTheSequences) {
  const ScratchFolder scratch;
  Json configuration = spamlang_configuration(8, 60);
  configuration["data"]["batch_size"] = 1;  // 60 draws over 40 symbols
  const Json validation = final_validation(configuration, scratch / "run");
  const Json& coverage = validation.at("coverage");
  const double share = coverage.at("share_seen").get<double>();
  EXPECT_GT(share, 0.6);  // 1 - (1 - 1/40)^60 = 0.78 is expected
  EXPECT_LT(share, 0.95);
  // Once or twice seen is half learned here; what was never a target is known to be unlikely, so it is worse than a
  // guess.
  EXPECT_GT(coverage.at("seen_accuracy").get<double>(), 0.2);
  EXPECT_LT(coverage.at("unseen_accuracy").get<double>(), 0.05);
  EXPECT_GT(coverage.at("unseen_loss").get<double>(), coverage.at("seen_loss").get<double>());
  EXPECT_NEAR(
      validation.at("top1_accuracy").get<double>(),
      share * coverage.at("seen_accuracy").get<double>() + (1 - share) * coverage.at("unseen_accuracy").get<double>(),
      1e-12);
}

}  // namespace
}  // namespace lmhead
