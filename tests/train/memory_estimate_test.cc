#include "lmhead/train/memory_estimate.h"

#include <gtest/gtest.h>

#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

double numbers_of(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json json = write_options(configuration);
  json["data"]["path"] = (scratch / "data").string();
  json["model"]["vocab_size"] = vocab_size;
  return make_trainer(json, scratch / "run").summary("")["parameters"].get<double>();
}

TEST(MemoryEstimate, CountsTheParametersOfEveryKindOfModel) {
  const char* cases[][2] = {
      {R"({})", R"({})"},
      {R"({"tie_word_embeddings": true, "norm": "layernorm"})", R"({})"},
      {R"({"activation": "gelu", "position": "learned", "max_position_embeddings": 128})", R"({"bias": true})"},
      {R"({"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 20, "num_hidden_layers": 3})", R"({})"},
      {R"({"attention_bias": true})", R"({"type": "low_rank", "rank": 7})"},
      {R"({"norm": "none"})", R"({"type": "expanded", "width": 100, "activation": "gelu"})"},
  };
  for (const auto& [model, head] : cases) {
    Json json = {{"data", {{"sequence_length", 16}, {"batch_size", 4}, {"micro_batches", 2}}},
                 {"model", parse_json(model, "case")},
                 {"head", parse_json(head, "case")}};
    json["model"]["hidden_size"] = 64;
    const auto configuration = read_options<TrainConfiguration>(json);
    const MemoryEstimate estimate = estimate_memory(configuration, 300);
    EXPECT_EQ(estimate.parameters, numbers_of(configuration, 300)) << model << head;
    // Values, gradients of this micro-batch and of those before it, two averages.
    EXPECT_EQ(estimate.state(), 20 * estimate.parameters);
  }
}

TEST(MemoryEstimate, CountsTheParametersOfEveryHead) {
  for (const HeadKind& kind : head_kinds()) {
    const Json json = {{"data", {{"sequence_length", 16}, {"batch_size", 4}}},
                       {"model", {{"hidden_size", 64}, {"num_hidden_layers", 2}}},
                       {"head", {{"type", kind.type}}}};
    const auto configuration = read_options<TrainConfiguration>(json);
    EXPECT_EQ(estimate_memory(configuration, 300).parameters, numbers_of(configuration, 300)) << kind.type;
  }
}

TEST(MemoryEstimate, SizesOfTheHeadCountToo) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json json = tiny_configuration(scratch / "data");
  json["head"] = {{"type", "expanded"}, {"width", 1 << 24}};
  EXPECT_GT(estimate_memory(read_options<TrainConfiguration>(json), 1 << 20).state(), 1e14);
  json["model"]["vocab_size"] = 1 << 20;
  EXPECT_ERROR(make_trainer(json, scratch / "run"), "[train] memory must hold ");
  json["head"]["width"] = (1 << 24) + 1;
  EXPECT_ERROR(read_options<TrainConfiguration>(json),
               "head.width must be an integer of at least 1 and at most 16777216");
  json["head"] = {{"type", "low_rank"}, {"rank", (1 << 24) + 1}};
  EXPECT_ERROR(read_options<TrainConfiguration>(json),
               "head.rank must be an integer of at least 1 and at most 16777216");
}

TEST(MemoryEstimate, ShapesThatNoTensorMayHaveAreTooMuchAndNoError) {
  Json json = {{"model", {{"hidden_size", 1 << 20}, {"num_attention_heads", 1 << 20}, {"head_dim", 1 << 20}}}};
  const auto configuration = read_options<TrainConfiguration>(json);
  EXPECT_GT(estimate_memory(configuration, 300).state(), 1e18);
  EXPECT_ERROR(require_training_memory(configuration, 300), "[train] memory must hold ");
}

TEST(MemoryEstimate, ActivationsGrowWithTheTokensOfAMicroBatch) {
  const auto activations = [](std::int64_t batch_size, std::int64_t micro_batches, const char* precision) {
    TrainConfiguration configuration;
    configuration.data.batch_size = batch_size;
    configuration.data.micro_batches = micro_batches;
    configuration.training.precision = precision;
    return estimate_memory(configuration, 300).activations;
  };
  EXPECT_EQ(activations(64, 1, "float32"), 4 * activations(64, 4, "float32"));
  EXPECT_LT(activations(64, 1, "bfloat16"), activations(64, 1, "float32"));
  EXPECT_GT(activations(1 << 24, 1, "float32"), 1e12);
}

TEST(MemoryEstimate, ActivationsThatAreComputedAgainAreNotKept) {
  TrainConfiguration configuration;
  configuration.model.num_hidden_layers = 24;
  const double kept = estimate_memory(configuration, 300).activations;
  configuration.training.checkpoint_activations = true;
  EXPECT_LT(estimate_memory(configuration, 300).activations, kept / 4);
}

TEST(MemoryEstimate, ARunThatCannotBeIsRefusedBeforeItsModelIsMade) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json json = tiny_configuration(scratch / "data");
  json["model"]["hidden_size"] = 1 << 20;
  json["model"]["num_hidden_layers"] = 4096;
  EXPECT_ERROR(make_trainer(json, scratch / "run"), "[train] memory must hold ");
}

}  // namespace
}  // namespace lmhead
