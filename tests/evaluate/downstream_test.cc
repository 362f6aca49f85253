// Figures of tasks from scores, and files that are not what they should be.
#include "lmhead/evaluate/downstream.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "tests/data/data_fixtures.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

constexpr std::int64_t kVocabSize = 29;

Scorer make_scorer() {
  CausalModel model(tiny_options(), HeadSpecification("linear"), kVocabSize, /*seed=*/0);
  randomise(model.parameters());
  return Scorer({.kind = ModelKind::kCheckpoint,
                 .name = "model",
                 .decoder = std::make_shared<const Decoder>(std::move(model.decoder)),
                 .head = std::move(model.head)},
                {.max_length = 12});
}

Json document(const Json& requests, const Json& gold, const Json& characters, double bytes) {
  return {{"requests", requests}, {"gold", gold}, {"characters", characters}, {"gold_bytes", bytes}};
}

Json file_of(const Json& tasks) {
  return {{"format", "lmhead-requests"}, {"version", 1}, {"tokenizer_hash", "bytes"}, {"tasks", tasks}};
}

DownstreamTasks read(const Json& json) {
  const ScratchFolder scratch;
  write_file_atomic(scratch / "requests.json", json.dump());
  return read_downstream_tasks(scratch / "requests.json");
}

TEST(Downstream, FiguresAreThoseOfTheScores) {
  const Scorer scorer = make_scorer();
  const Json choices = {{{1, 2, 3}, {4}}, {{1, 2, 3}, {5, 6, 7}}, {{1, 2, 3}, {8, 9}}};
  const auto scores = scorer.score({{{1, 2, 3}, {4}}, {{1, 2, 3}, {5, 6, 7}}, {{1, 2, 3}, {8, 9}}});
  std::int64_t plain = 0, by_character = 0;
  const double characters[] = {2, 30, 5};
  for (std::int64_t index = 1; index < 3; ++index) {
    if (scores[index].log_probability > scores[plain].log_probability) plain = index;
    if (scores[index].log_probability / characters[index] < 0 &&
        scores[index].log_probability / characters[index] >
            scores[by_character].log_probability / characters[by_character])
      by_character = index;
  }
  EXPECT_NE(plain, by_character);  // else the two could not be told apart
  const DownstreamTasks tasks = read(file_of(
      {{{"name", "one"},
        {"documents", {document(choices, plain, {2, 30, 5}, 7), document(choices, by_character, {2, 30, 5}, 4)}}},
       {{"name", "two"}, {"documents", {document(Json::parse("[[[1], [2, 3]]]"), 0, Json::array(), 3)}}}}));
  const Json figures = score_downstream(scorer, tasks);
  EXPECT_EQ(figures["one"]["acc"], 0.5);
  EXPECT_EQ(figures["one"]["acc_norm"], 0.5);
  const double first = -scores[plain].log_probability / std::log(2.0) / 7;
  const double second = -scores[by_character].log_probability / std::log(2.0) / 4;
  EXPECT_NEAR(figures["one"]["bits_per_byte"].get<double>(), (first + second) / 2, 1e-5);
  const Score alone = scorer.score({{{1}, {2, 3}}})[0];
  EXPECT_EQ(figures["two"]["acc"], double(alone.is_greedy));
  EXPECT_FALSE(figures["two"].contains("acc_norm"));
  EXPECT_NEAR(figures["two"]["bits_per_byte"].get<double>(), -alone.log_probability / std::log(2.0) / 3, 1e-5);
  EXPECT_NEAR(figures["average"]["bits_per_byte"].get<double>(),
              (figures["one"]["bits_per_byte"].get<double>() + figures["two"]["bits_per_byte"].get<double>()) / 2,
              1e-12);
  EXPECT_FALSE(figures["average"].contains("acc_norm"));
}

TEST(Downstream, ADocumentWithoutAnAnswerHasNoFigures) {
  const Json two = Json::parse("[[[1], [2]], [[1], [3]]]");
  const Json figures = score_downstream(
      make_scorer(),
      read(file_of(
          {{{"name", "one"}, {"documents", {document(two, nullptr, {1, 1}, 0), document(two, 0, {1, 1}, 2)}}}})));
  EXPECT_EQ(figures, (Json{{"one", Json::object()}}));
}

TEST(Downstream, RequestsOfADocumentAreCutAlike) {
  const Json shared = Json::parse("[[[1, 2, 3, 4, 5], [6]], [[1, 2, 3, 4, 5], [7, 8, 9]]]");
  const Json others = Json::parse("[[[1, 2, 3, 4, 5], [6, 7]], [[2, 2, 3, 4, 5], [6, 7]]]");
  DownstreamTasks tasks = read(
      file_of({{{"name", "one"}, {"documents", {document(shared, 0, {1, 1}, 1), document(others, 0, {1, 1}, 1)}}}}));
  const auto context = [&](std::size_t number, std::size_t request) {
    return tasks.tasks[0].documents[number].requests[request].context;
  };
  cut_alike(tasks, 7);  // they fit
  EXPECT_EQ(context(0, 0).size(), 5u);
  cut_alike(tasks, 5);  // 5 + 3 - 1 tokens are two too many
  EXPECT_EQ(context(0, 0), (std::vector<std::int64_t>{3, 4, 5}));
  EXPECT_EQ(context(0, 1), context(0, 0));
  EXPECT_EQ(context(1, 0), (std::vector<std::int64_t>{1, 2, 3, 4, 5}));  // left to the scorer
  EXPECT_EQ(context(1, 1), (std::vector<std::int64_t>{2, 2, 3, 4, 5}));
  cut_alike(tasks, 3);  // an answer as long as the input keeps a token before it
  EXPECT_EQ(context(0, 1), (std::vector<std::int64_t>{5}));
}

TEST(Downstream, FilesThatAreNoneAreRefusedByPlace) {
  const auto error_of = [](const Json& json) {
    try {
      read(json);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto ends_with = [&](const Json& json, const std::string& end) {
    EXPECT_TRUE(error_of(json).ends_with(end)) << error_of(json);
  };
  const Json good = document(Json::parse("[[[1], [2]]]"), 0, {1}, 1);
  ends_with({{"format", "else"}}, "must be what lmhead evaluate --requests wrote, got something else");
  ends_with(file_of(Json::array()), "must hold a task, got none");
  ends_with(file_of({{{"name", "one"}, {"documents", Json::array()}}}), "must hold a document, got none");
  ends_with(
      file_of({{{"name", "one"}, {"documents", {good, document(Json::parse("[[[1], [2]]]"), 1, Json::array(), 1)}}}}),
      ": document 1 of one must have its gold below 1, got 1");
  ends_with(file_of({{{"name", "one"}, {"documents", {document(Json::parse("[[[1], [2]]]"), 0, {1, 2}, 1)}}}}),
            ": document 0 of one must have characters of each of 1 requests, got 2");
  ends_with(file_of({{{"name", "one"}, {"documents", {document(Json::array(), 0, Json::array(), 1)}}}}),
            ": document 0 of one must have a request, got none");
  ends_with(file_of({{{"name", "one"}, {"documents", {{{"requests", 1}}}}}}),
            ": document 0 of one must have every key of docs/files.md in its type, got another");
}

}  // namespace
}  // namespace lmhead
