// Generation: a kept past against the whole sequence again, and draws against their distribution.
#include "lmhead/models/generation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/models/pretrained.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kVocabSize = 13, kLength = 11;

TEST(KeyValueCache, AnyPiecesGiveTheFeaturesOfTheWhole) {
  const at::Tensor tokens = draw_ids({2, kLength}, kVocabSize);
  const std::vector<std::vector<std::int64_t>> cuts = {
      std::vector<std::int64_t>(kLength, 1), {5, 1, 1, 1, 1, 1, 1}, {2, 3, 4, 2}, {kLength}};
  at::NoGradGuard no_grad;
  for (const auto& [name, specification] : specifications(kVocabSize)) {
    const Decoder decoder(specification, fresh_parameters(0));
    randomise(decoder.parameters());
    const at::Tensor whole = decoder.forward(tokens).view({2, kLength, 16});
    for (const auto& pieces : cuts) {
      KeyValueCache cache;
      std::int64_t first = 0;
      for (const std::int64_t length : pieces) {
        const at::Tensor got = decoder.extend(tokens.narrow(1, first, length), cache).view({2, length, 16});
        EXPECT_LE(largest(got - whole.narrow(1, first, length)), 1e-5 * (1 + largest(whole)))
            << name << " at " << first;
        first += length;
      }
      EXPECT_EQ(cache.length(), kLength);
    }
  }
}

TEST(KeyValueCache, GrowsWithoutForgetting) {
  DecoderOptions options = tiny_options();
  options.num_key_value_heads = 2;
  const Decoder decoder = make_decoder(options, kVocabSize);
  randomise(decoder.parameters());
  const at::Tensor tokens = draw_ids({1, 300}, kVocabSize);
  at::NoGradGuard no_grad;
  const at::Tensor whole = decoder.forward(tokens);
  KeyValueCache cache;
  for (std::int64_t token = 0; token < 300; ++token) {
    const at::Tensor got = decoder.extend(tokens.narrow(1, token, 1), cache);
    ASSERT_LE(largest(got - whole.narrow(0, token, 1)), 1e-5 * (1 + largest(whole))) << token;
  }
}

TEST(KeyValueCache, ARaggedSequenceIsRefused) {
  const Decoder decoder = make_decoder(tiny_options(), kVocabSize);
  at::NoGradGuard no_grad;
  KeyValueCache cache;
  decoder.extend(draw_ids({2, 3}, kVocabSize), cache);
  EXPECT_THROW(decoder.extend(draw_ids({1, 3}, kVocabSize), cache), Error);
}

at::Tensor logits_of(std::vector<double> probabilities) {
  for (double& probability : probabilities) probability = std::log(probability) + 7;
  return at::tensor(probabilities, at::kDouble);
}

/// How often each token comes in 4,000 draws.
std::vector<double> frequencies(const std::vector<double>& probabilities, const SamplingOptions& options) {
  RandomStream stream(3, "draws");
  std::vector<double> counts(probabilities.size());
  for (int draw = 0; draw < 4000; ++draw)
    counts[std::size_t(choose_token(logits_of(probabilities), options, stream))] += 1.0 / 4000;
  return counts;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  for (std::size_t id = 0; id < want.size(); ++id) {
    EXPECT_NEAR(got[id], want[id], 0.03) << id;
    EXPECT_EQ(got[id] == 0, want[id] == 0) << id;
  }
}

TEST(ChooseToken, DrawsFromTheDistributionThatTheOptionsLeave) {
  const std::vector<double> p = {0.1, 0.5, 0.15, 0.25};
  expect_near(frequencies(p, {}), p);
  expect_near(frequencies(p, {.top_k = 2}), {0, 2.0 / 3, 0, 1.0 / 3});
  expect_near(frequencies(p, {.top_k = 9}), p);
  expect_near(frequencies(p, {.top_p = 0.74}), {0, 2.0 / 3, 0, 1.0 / 3});
  expect_near(frequencies(p, {.top_p = 0.76}), {0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9});
  expect_near(frequencies(p, {.top_p = 0.01}), {0, 1, 0, 0});
  // The nucleus is taken from what top_k leaves: 0.5 / 0.9 and 0.25 / 0.9 reach 0.8, 0.15 / 0.9 is cut.
  expect_near(frequencies(p, {.top_k = 3, .top_p = 0.8}), {0, 2.0 / 3, 0, 1.0 / 3});
  const double sum = 0.01 + 0.25 + 0.0225 + 0.0625;
  expect_near(frequencies(p, {.temperature = 0.5}), {0.01 / sum, 0.25 / sum, 0.0225 / sum, 0.0625 / sum});
  expect_near(frequencies({0.2, 0.4, 0.4}, {.temperature = 0}), {0, 1, 0});
}

TEST(ChooseToken, NonsenseIsRefused) {
  RandomStream stream(0, "draws");
  const at::Tensor logits = logits_of({0.5, 0.5});
  EXPECT_THROW(choose_token(logits, {.temperature = -1}, stream), Error);
  EXPECT_THROW(choose_token(logits, {.top_k = -1}, stream), Error);
  EXPECT_THROW(choose_token(logits, {.top_p = 0}, stream), Error);
  EXPECT_THROW(choose_token(logits, {.temperature = std::nan("")}, stream), Error);
  EXPECT_THROW(choose_token(logits_of({0.5, std::nan("")}), {}, stream), Error);
}

struct TinyModel {
  explicit TinyModel(const DecoderOptions& options = tiny_options())
      : model(options, HeadSpecification(), kVocabSize, 1) {
    randomise(model.parameters());
  }
  std::vector<std::int64_t> generate(const std::vector<std::int64_t>& prompt, const GenerationOptions& options) const {
    return lmhead::generate(model.decoder, *model.head, prompt, options);
  }
  CausalModel model;
};

TEST(Generation, GreedyTokensAreThoseOfTheWholeForward) {
  const TinyModel tiny;
  std::vector<std::int64_t> all = {1, 2};
  for (int step = 0; step < 20; ++step) {
    at::NoGradGuard no_grad;
    const at::Tensor hidden = tiny.model.decoder.forward(at::tensor(all, at::kLong).unsqueeze(0));
    all.push_back(tiny.model.head->logits({hidden})[-1].argmax().item<std::int64_t>());
  }
  all.erase(all.begin(), all.begin() + 2);
  EXPECT_EQ(tiny.generate({1, 2}, {.sampling = {.temperature = 0}, .max_new_tokens = 20}), all);
}

TEST(Generation, FrequenciesThatFollowTheLengthAreThoseOfTheWholeForward) {
  for (const auto scaling : {RotaryScaling::kDynamic, RotaryScaling::kLongRope}) {
    DecoderSpecification specification = tiny_options().specification(kVocabSize);
    specification.rotaries[0].scaling = scaling;
    specification.rotaries[0].factor = 4;
    specification.rotaries[0].max_position_embeddings = 6;
    specification.rotaries[0].original_max_position_embeddings = 6;
    specification.rotaries[0].short_factor.assign(std::size_t(specification.rotaries[0].width / 2), 1);
    specification.rotaries[0].long_factor.assign(std::size_t(specification.rotaries[0].width / 2), 5);
    const Decoder decoder(specification, fresh_parameters(1));
    randomise(decoder.parameters());
    const TinyModel tiny;
    std::vector<std::int64_t> all = {1, 2};
    at::NoGradGuard no_grad;
    for (int step = 0; step < 9; ++step) {
      const at::Tensor hidden = decoder.forward(at::tensor(all, at::kLong).unsqueeze(0));
      all.push_back(tiny.model.head->logits({hidden})[-1].argmax().item<std::int64_t>());
    }
    all.erase(all.begin(), all.begin() + 2);
    EXPECT_EQ(generate(decoder, *tiny.model.head, {1, 2}, {.sampling = {.temperature = 0}, .max_new_tokens = 9}), all);

    EXPECT_FALSE(decoder.keeps_keys(6, 7));
    KeyValueCache cache;
    decoder.extend(draw_ids({1, 6}, kVocabSize), cache);
    EXPECT_THROW(decoder.extend(draw_ids({1, 1}, kVocabSize), cache), Error);
    TokenTreeBuilder builder(specification.hidden_size);
    builder.add({1, 2, 3, 4, 5, 6});
    decoder.forward_trees({builder.build()});
    builder.add({1, 2, 3, 4, 5, 6, 7});
    EXPECT_THROW(decoder.forward_trees({builder.build()}), Error);
  }
}

TEST(Generation, TheSeedDecidesTheDraws) {
  const TinyModel tiny;
  const auto draw = [&](std::uint64_t seed) { return tiny.generate({4}, {.max_new_tokens = 30, .seed = seed}); };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Generation, EndsAtAnEndTokenAndWherePositionsAreUsedUp) {
  const TinyModel tiny;
  GenerationOptions options{.sampling = {.temperature = 0}, .max_new_tokens = 20};
  const auto free = tiny.generate({1, 2}, options);
  options.end_tokens = {free[3]};
  const auto ended = tiny.generate({1, 2}, options);
  EXPECT_EQ(ended.back(), free[3]);
  EXPECT_LE(ended.size(), 4U);

  DecoderOptions learned = tiny_options();
  learned.position = "learned";
  learned.max_position_embeddings = 8;
  EXPECT_EQ(TinyModel(learned).generate({1, 2}, {.max_new_tokens = 20}).size(), 7U);  // the last needs no position
  EXPECT_THROW(TinyModel(learned).generate(std::vector<std::int64_t>(9, 1), {}), Error);
}

TEST(Generation, PromptsWithoutMeaningAreRefused) {
  const TinyModel tiny;
  EXPECT_THROW(tiny.generate({}, {}), Error);
  EXPECT_THROW(tiny.generate({kVocabSize}, {}), Error);
  EXPECT_THROW(tiny.generate({-1}, {}), Error);
}

TEST(Generation, TinyStoriesGoesOnAsPublished) {
  const fs::path data = LMHEAD_SHARED_DATA, reference = data / "reference" / "TinyStories-656K.float64.json";
  if (!fs::exists(reference)) GTEST_SKIP() << "no shared data";
  const auto golden =
      nlohmann::json::parse(read_file(reference))["greedy_from_Once_upon_a_time"].get<std::vector<std::int64_t>>();
  constexpr std::size_t kPrompt = 6;  // a beginning, "Once upon a time" and the space that its tokenizer adds
  const LoadedModel model = load_pretrained(data / "models" / "TinyStories-656K");
  std::vector<std::int64_t> all(golden.begin(), golden.begin() + kPrompt);
  const auto generated =
      generate(*model.decoder, *model.head, all,
               {.sampling = {.temperature = 0}, .max_new_tokens = std::int64_t(golden.size() - kPrompt)});
  all.insert(all.end(), generated.begin(), generated.end());
  EXPECT_EQ(all, golden);
}

}  // namespace
}  // namespace lmhead
