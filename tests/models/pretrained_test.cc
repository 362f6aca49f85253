// Pretrained models against golden logits; the folders that tests/python/test_families.py makes are checked
// here too.
#include "lmhead/models/pretrained.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/models/safetensors_folder.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
const fs::path kModels = fs::path(LMHEAD_SHARED_DATA) / "models";

at::Tensor logits_of(const LoadedModel& model, const at::Tensor& tokens) {
  at::NoGradGuard no_grad;
  return model.head->logits({model.decoder->forward(tokens)});
}

/// Numbers of nested arrays as one float64 row.
at::Tensor numbers(const nlohmann::json& json) {
  std::vector<double> values;
  const std::function<void(const nlohmann::json&)> visit = [&](const nlohmann::json& item) {
    if (item.is_array()) {
      for (const auto& inner : item) visit(inner);
    } else {
      values.push_back(item.get<double>());
    }
  };
  visit(json);
  return at::tensor(values, at::kDouble);
}

/// The largest difference over the largest magnitude.
double relative_difference(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor wanted = expected.to(at::kDouble).reshape({-1});
  return ((got.to(at::kDouble).reshape({-1}) - wanted).abs().max() / wanted.abs().max()).item<double>();
}

/// The norm of the difference over the norm.
double relative_distance(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor wanted = expected.to(at::kDouble).reshape({-1});
  return ((got.to(at::kDouble).reshape({-1}) - wanted).norm() / wanted.norm()).item<double>();
}

class GoldenLogits : public testing::TestWithParam<const char*> {};

TEST_P(GoldenLogits, AreReproduced) {
  const fs::path folder = kModels / "family-fixtures" / GetParam();
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared data";
  const auto golden = nlohmann::json::parse(read_file(folder / "golden.json"));
  const auto sequences =
      golden.contains("sequences") ? golden["sequences"] : nlohmann::json::array({golden["input_ids"]});
  const at::Tensor tokens = numbers(sequences).to(at::kLong).view({std::int64_t(sequences.size()), -1});
  const LoadedModel model = load_pretrained(folder);
  EXPECT_LT(relative_difference(logits_of(model, tokens), numbers(golden["logits"])), 1e-5);
  if (!golden.contains("hidden_after_lnf")) return;
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> layers;
  EXPECT_LT(relative_difference(model.decoder->forward(tokens, &layers), numbers(golden["hidden_after_lnf"])), 1e-5);
  EXPECT_LT(relative_difference(layers[0], numbers(golden["hidden_after_block0"])), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenLogits,
                         testing::Values("gpt2", "gpt2-torch", "gptneox", "llama", "smollm2", "mistral", "olmo2",
                                         "gemma"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(PretrainedModel, TinyStoriesHasItsPublishedLosses) {
  const fs::path reference = fs::path(LMHEAD_SHARED_DATA) / "reference" / "TinyStories-656K.float64.json";
  if (!fs::exists(reference)) GTEST_SKIP() << "no shared data";
  const auto golden = nlohmann::json::parse(read_file(reference));
  // The first stores the tied matrix as lm_head.weight alone, the second as the embedding alone, in bfloat16.
  for (const char* name : {"TinyStories-656K", "TinyStories-656K-bf16"}) {
    const LoadedModel model = load_pretrained(kModels / name);
    EXPECT_EQ(model.head->linear_map()->weight.const_data_ptr(), model.decoder->embedding()->value.const_data_ptr());
    for (const auto& item : golden["cases"]) {
      const at::Tensor ids = numbers(item["ids"]).to(at::kLong);
      const at::Tensor inputs = ids.narrow(0, 0, ids.size(0) - 1), targets = ids.narrow(0, 1, ids.size(0) - 1);
      const at::Tensor losses =
          plain_cross_entropy(logits_of(model, inputs.unsqueeze(0)), targets, {.reduction = Reduction::kNone});
      EXPECT_LT((losses - numbers(item["nll"]).to(at::kFloat)).abs().max().item<double>(), 1e-4) << name;
    }
  }
}

TEST(PretrainedModel, ParametersTakeNoGradient) {
  const fs::path folder = kModels / "stories260K-hf";
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared data";
  const LoadedModel model = load_pretrained(folder);
  for (const ParameterPtr& parameter : model.decoder->parameters())
    EXPECT_FALSE(parameter->value.requires_grad()) << parameter->name;
}

/// The features of the same tokens read in pieces behind kept keys, and as trees.
void expect_other_ways_agree(const Decoder& decoder, const at::Tensor& tokens, const at::Tensor& hidden) {
  const std::int64_t length = tokens.size(1);
  if (!decoder.keeps_keys(1, length)) return;
  KeyValueCache cache;
  std::vector<at::Tensor> pieces;
  for (std::int64_t first = 0; first < length; first += 3) {
    const at::Tensor piece = tokens.narrow(1, first, std::min<std::int64_t>(3, length - first));
    pieces.push_back(decoder.extend(piece, cache).view({tokens.size(0), piece.size(1), -1}));
  }
  EXPECT_LT(relative_difference(at::cat(pieces, 1), hidden), 1e-5);
  TokenTreeBuilder builder(decoder.specification().hidden_size);
  for (std::int64_t row = 0; row < tokens.size(0); ++row) {
    const at::Tensor ids = tokens[row].contiguous();
    builder.add({ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + length});
  }
  EXPECT_LT(relative_difference(decoder.forward_trees({builder.build()})[0].hidden, hidden), 1e-5);
}

// Folders with config.json, weights and parity.safetensors (tokens, logits, hidden, loss), separated by colons.
TEST(PretrainedModel, AgreesWithTheFoldersGiven) {
  const char* folders = std::getenv("LMHEAD_PARITY_FOLDERS");
  if (!folders) GTEST_SKIP() << "LMHEAD_PARITY_FOLDERS is not set";
  std::stringstream list(folders);
  for (std::string folder; std::getline(list, folder, ':');) {
    SCOPED_TRACE(folder);
    const auto parity = SafetensorsFile::open(fs::path(folder) / "parity.safetensors");
    const LoadedModel model = load_pretrained(folder);
    at::NoGradGuard no_grad;
    const at::Tensor hidden = model.decoder->forward(parity.tensor("tokens"));
    EXPECT_LT(relative_difference(hidden, parity.tensor("hidden")), 1e-5);
    EXPECT_LT(relative_distance(hidden, parity.tensor("hidden")), 3e-6);  // both are float32
    const at::Tensor logits = model.head->logits({hidden});
    EXPECT_LT(relative_difference(logits, parity.tensor("logits")), 1e-5);
    const at::Tensor targets = parity.tensor("tokens").roll({-1}).flatten();
    const double loss = plain_cross_entropy(logits, targets, {}).item<double>();
    EXPECT_NEAR(loss / parity.tensor("loss").item<double>(), 1, 1e-6);
    expect_other_ways_agree(*model.decoder, parity.tensor("tokens"), hidden);
  }
}

}  // namespace
}  // namespace lmhead
