// Scores against every request's own pass and softmax, whatever stands beside it.
#include "lmhead/evaluate/scorer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "lmhead/base/error.h"
#include "lmhead/models/causal_model.h"
#include "tests/data/data_fixtures.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

using Ids = std::vector<std::int64_t>;
constexpr std::int64_t kVocabSize = 29;

LoadedModel make_model(const DecoderOptions& options, const Json& head = {{"type", "linear"}}) {
  CausalModel model(options, read_options<HeadSpecification>(head), kVocabSize, /*seed=*/0);
  randomise(model.parameters());
  return {.kind = ModelKind::kCheckpoint,
          .name = "model",
          .decoder = std::make_shared<const Decoder>(std::move(model.decoder)),
          .head = std::move(model.head)};
}

/// Choices after one context, one-token choices, a sentence that begins as another, strangers.
std::vector<ScoreRequest> draw_requests() {
  std::vector<ScoreRequest> requests;
  RandomStream stream(3, "requests");
  const auto draw = [&](std::int64_t count) {
    Ids ids;
    while (std::int64_t(ids.size()) < count) ids.push_back(std::int64_t(stream.below(kVocabSize)));
    return ids;
  };
  for (int question = 0; question < 6; ++question) {
    const Ids context = draw(3 + question);
    for (int choice = 0; choice < 4; ++choice) requests.push_back({context, draw(question % 2 ? 1 : 1 + choice)});
  }
  requests.push_back({{5}, {7, 8, 9, 10, 11}});
  requests.push_back({{5}, {7, 8, 12, 10}});
  requests.push_back({{5}, {7, 8}});
  requests.push_back({draw(1), draw(9)});
  return requests;
}

/// The request alone: the whole sequence through the decoder, all logits, the log softmax in float64.
Score reference(const LoadedModel& model, const ScoreRequest& request, std::int64_t max_length) {
  at::NoGradGuard no_grad;
  Ids all = request.context;
  all.insert(all.end(), request.continuation.begin(), request.continuation.end());
  if (std::int64_t(all.size()) > max_length + 1) all.erase(all.begin(), all.end() - (max_length + 1));
  const at::Tensor tokens = at::tensor(Ids(all.begin(), all.end() - 1), at::kLong).unsqueeze(0);
  const at::Tensor logits =
      model.head->logits(run_decoder(*model.decoder, *model.head, tokens, model.text.end_of_document));
  const at::Tensor log_p = at::log_softmax(logits.to(at::kDouble), 1);
  Score score{0, true, std::int64_t(request.continuation.size())};
  for (std::size_t place = all.size() - request.continuation.size(); place < all.size(); ++place) {
    const at::Tensor row = log_p[std::int64_t(place) - 1];
    score.log_probability += row[all[place]].item<double>();
    score.is_greedy = score.is_greedy && row.argmax().item<std::int64_t>() == all[place];
  }
  return score;
}

void expect_scores(const Scorer& scorer, const std::vector<ScoreRequest>& requests, const std::string& what) {
  const std::vector<Score> scores = scorer.score(requests);
  ASSERT_EQ(scores.size(), requests.size());
  for (std::size_t index = 0; index < requests.size(); ++index) {
    const Score want = reference(scorer.model(), requests[index], scorer.max_length());
    EXPECT_NEAR(scores[index].log_probability, want.log_probability, 1e-4 * (1 + std::abs(want.log_probability)))
        << what << " " << index;
    EXPECT_EQ(scores[index].is_greedy, want.is_greedy) << what << " " << index;
    EXPECT_EQ(scores[index].tokens, want.tokens);
  }
}

TEST(Scorer, IsThePassOfEachRequestAloneForEveryBody) {
  for (const Variant& variant : variants())
    expect_scores(Scorer(make_model(variant.options), {.max_length = 12}), draw_requests(), variant.name);
}

TEST(Scorer, IsThePassOfEachRequestAloneForEveryHead) {
  for (const HeadKind& kind : head_kinds()) {
    Json head = {{"type", kind.type}};
    if (std::string(kind.type) == "low_rank") head["rank"] = 3;
    if (std::string(kind.type) == "linear") head["logit_softcap"] = 3.0;
    expect_scores(Scorer(make_model(tiny_options(), head), {.max_length = 12}), draw_requests(), kind.type);
  }
}

TEST(Scorer, KnowsWhatGreedyDecodingGives) {
  const Scorer scorer(make_model(tiny_options()), {.max_length = 12});
  Ids sequence = {3};
  at::NoGradGuard no_grad;
  for (int token = 0; token < 4; ++token) {
    const at::Tensor hidden = scorer.model().decoder->forward(at::tensor(sequence, at::kLong).unsqueeze(0));
    sequence.push_back(scorer.model().head->logits({hidden})[-1].argmax().item<std::int64_t>());
  }
  const Ids greedy(sequence.begin() + 1, sequence.end());
  Ids other = greedy;
  other[1] = (other[1] + 1) % kVocabSize;
  const auto scores = scorer.score({{{3}, greedy}, {{3}, other}, {{3, greedy[0]}, {greedy[1]}}});
  EXPECT_TRUE(scores[0].is_greedy);
  EXPECT_FALSE(scores[1].is_greedy);
  EXPECT_TRUE(scores[2].is_greedy);
}

TEST(Scorer, GivesTheSameInPassesOfAnySize) {
  const std::vector<ScoreRequest> requests = draw_requests();
  const auto whole = Scorer(make_model(tiny_options()), {.max_length = 12}).score(requests);
  for (const std::int64_t pass_tokens : {1, 7, 30}) {
    const auto parts =
        Scorer(make_model(tiny_options()), {.max_length = 12, .pass_tokens = pass_tokens}).score(requests);
    for (std::size_t index = 0; index < requests.size(); ++index) {
      EXPECT_NEAR(parts[index].log_probability, whole[index].log_probability, 1e-4);
      EXPECT_EQ(parts[index].is_greedy, whole[index].is_greedy);
    }
  }
}

TEST(Scorer, TakesTheLastTokensOfWhatIsTooLong) {
  const Scorer scorer(make_model(tiny_options()), {.max_length = 6});
  const auto scores = scorer.score({{{1, 2, 3, 4, 5, 6, 7, 8}, {9, 10}},
                                    {{4, 5, 6, 7, 8}, {9, 10}},
                                    {{1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6}},
                                    {{8}, {1, 2, 3, 4, 5, 6}}});
  EXPECT_NEAR(scores[0].log_probability, scores[1].log_probability, 1e-5);
  EXPECT_NEAR(scores[2].log_probability, scores[3].log_probability, 1e-5);
  expect_scores(Scorer(make_model(tiny_options()), {.max_length = 9}), draw_requests(), "nine tokens");
}

TEST(Scorer, SaysWhichRequestIsWrong) {
  const Scorer scorer(make_model(tiny_options()), {.max_length = 4});
  EXPECT_ERROR(scorer.score({{{1}, {2}}, {{}, {2}}}),
               "[evaluate] the context of request 1 must hold at least one token, got none");
  EXPECT_ERROR(scorer.score({{{1}, {}}}),
               "[evaluate] the continuation of request 0 must hold at least one token, got none");
  EXPECT_ERROR(scorer.score({{{1}, {2, 3, 4, 5, 6}}}),
               "[evaluate] the continuation of request 0 must be no longer than max_length 4, got 5 tokens");
  EXPECT_ERROR(scorer.score({{{1}, {29}}}), "[evaluate] ids of request 0 must be at least 0 and below 29, got 29");
  EXPECT_TRUE(scorer.score({}).empty());
  LoadedModel features = make_model(tiny_options());
  features.decoder = nullptr;
  EXPECT_ERROR(Scorer(features, {}), "[evaluate] the model must have a decoder, got features alone in model");
}

TEST(Scorer, KnowsHowLongAnInputMayBe) {
  LoadedModel model = make_model(tiny_options());
  EXPECT_EQ(Scorer(model).max_length(), 2048);
  model.max_position_embeddings = 512;
  EXPECT_EQ(Scorer(model).max_length(), 512);
  model.sequence_length = 128;
  EXPECT_EQ(Scorer(model).max_length(), 128);
  for (const Variant& variant : variants()) {
    if (variant.options.position != "learned") continue;
    EXPECT_EQ(Scorer(make_model(variant.options)).max_length(), 12);
    EXPECT_ERROR(Scorer(make_model(variant.options), {.max_length = 13}),
                 "[evaluate] max_length must be at most the 12 positions of model, got 13");
  }
}

TEST(Scorer, ServesThreadsAtOnce) {
  const Scorer scorer(make_model(tiny_options()), {.max_length = 12, .pass_tokens = 20});
  const std::vector<ScoreRequest> requests = draw_requests();
  const std::vector<Score> want =
      Scorer(make_model(tiny_options()), {.max_length = 12, .pass_tokens = 20}).score(requests);
  std::vector<std::vector<Score>> got(3);
  std::vector<std::thread> threads;
  for (auto& scores : got) threads.emplace_back([&] { scores = scorer.score(requests); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& scores : got)
    for (std::size_t index = 0; index < requests.size(); ++index)
      EXPECT_EQ(scores[index].log_probability, want[index].log_probability);
}

}  // namespace
}  // namespace lmhead
