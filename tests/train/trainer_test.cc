// The training loop: resuming is exact, micro batches add up, what goes wrong is said and nothing is lost.
#include "lmhead/train/trainer.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "lmhead/models/safetensors.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override { write_dataset(scratch_ / "data"); }
  Json configuration() const { return tiny_configuration(scratch_ / "data"); }
  /// Trains to the end in one go.
  void run_whole(const Json& json, const std::string& folder) const {
    EXPECT_TRUE(make_trainer(json, scratch_ / folder).run());
  }
  std::string last_file(const std::string& run, const std::string& file) const {
    return read_file(scratch_ / run / "checkpoints" / "step-00000040" / file);
  }
  void expect_same_run(const std::string& left, const std::string& right) const {
    EXPECT_EQ(figures_of(scratch_ / left), figures_of(scratch_ / right));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      EXPECT_TRUE(last_file(left, file) == last_file(right, file)) << file << " of " << left << " and " << right;
  }
  ScratchFolder scratch_;
};
using Resume = TrainerTest;
using TrainerRuns = TrainerTest;

/// A kill: nothing after step `step` happens, not even a save.
struct Killed {};
TrainerControl kill_after(std::int64_t step) {
  return {.on_step = [step](const StepRecord& record) {
    if (record.step == step) throw Killed();
  }};
}

TEST_F(TrainerRuns, ValidationByFrequencyAddsUpToTheWhole) {
  Json json = configuration();
  json["training"]["steps"] = 10;
  run_whole(json, "bands");
  const Json validation = read_log(scratch_ / "bands").back().at("validation");
  const Json& bands = validation.at("by_frequency");
  ASSERT_EQ(bands.size(), 2u);  // 64 ids: rank 1-10 and 11-100, all of them seen
  double loss = 0, correct = 0, tokens = 0;
  for (const auto& band : bands.items()) {
    const double count = band.value().at("tokens").get<double>();
    tokens += count;
    loss += count * band.value().at("loss").get<double>();
    correct += count * band.value().at("top1_accuracy").get<double>();
  }
  EXPECT_EQ(tokens, validation.at("tokens").get<double>());
  EXPECT_NEAR(loss / tokens, validation.at("loss").get<double>(), 1e-12);  // float64 sums of some hundred tokens
  EXPECT_NEAR(correct / tokens, validation.at("top1_accuracy").get<double>(), 1e-12);
}

TEST_F(Resume, IsExactForEveryPrecisionOptimizerAndSplit) {
  for (const char* precision : {"float32", "bfloat16", "float16"})
    for (const char* optimizer : {"adamw", "muon"})
      for (const int micro_batches : {1, 2}) {
        const std::string name = std::string(precision) + optimizer + std::to_string(micro_batches);
        SCOPED_TRACE(name);
        Json json = configuration();
        json["training"]["precision"] = precision;
        json["optimizer"]["type"] = optimizer;
        json["training"]["validate_every"] = 0;
        json["training"]["checkpoint_every"] = 13;
        json["data"]["micro_batches"] = micro_batches;
        run_whole(json, name + "-whole");

        EXPECT_FALSE(make_trainer(json, scratch_ / (name + "-stopped"))
                         .run({.on_step = [](const StepRecord&) {},
                               .should_stop = [count = 0]() mutable { return ++count == 17; }}));
        Trainer rest = make_trainer(json, scratch_ / (name + "-stopped"));
        EXPECT_EQ(rest.resumed_step(), 17);
        EXPECT_TRUE(rest.run());
        expect_same_run(name + "-whole", name + "-stopped");

        EXPECT_THROW(make_trainer(json, scratch_ / (name + "-killed")).run(kill_after(17)), Killed);
        EXPECT_EQ(figures_of(scratch_ / (name + "-killed")).size(), 17u);
        Trainer after_kill = make_trainer(json, scratch_ / (name + "-killed"));
        EXPECT_EQ(after_kill.resumed_step(), 13);
        EXPECT_TRUE(after_kill.run());
        expect_same_run(name + "-whole", name + "-killed");
      }
}

TEST_F(Resume, IsExactForEveryUpdateOfAGroup) {
  for (const char* update : {R"({"type": "adamw", "betas": [0.8, 0.9]})", R"({"type": "adamw", "amsgrad": true})",
                             R"({"type": "adamw", "coupled": true})", R"({"type": "sgd"})", R"({"type": "muon"})",
                             R"({"type": "row_normalized"})", R"({"type": "sign"})"}) {
    SCOPED_TRACE(update);
    const std::string name = std::to_string(std::hash<std::string>{}(update));
    Json json = configuration();
    Json group = Json::parse(update);
    group["pattern"] = "lm_head.weight";
    json["optimizer"]["groups"] = Json::array({group});
    run_whole(json, name + "-whole");
    EXPECT_THROW(make_trainer(json, scratch_ / (name + "-killed")).run(kill_after(9)), Killed);
    Trainer rest = make_trainer(json, scratch_ / (name + "-killed"));
    EXPECT_EQ(rest.resumed_step(), 7);
    EXPECT_TRUE(rest.run());
    expect_same_run(name + "-whole", name + "-killed");
  }
}

TEST_F(Resume, IsExactFromAKillAtAnyStep) {
  const Json json = configuration();
  run_whole(json, "whole");
  for (const std::int64_t step : {1, 6, 7, 8, 10, 39}) {
    const std::string name = "killed-" + std::to_string(step);
    EXPECT_THROW(make_trainer(json, scratch_ / name).run(kill_after(step)), Killed);
    EXPECT_TRUE(make_trainer(json, scratch_ / name).run());
    expect_same_run("whole", name);
  }
}

TEST_F(Resume, KnowsTheFilesThatTheRunBeganFrom) {
  Json first = configuration();
  first["training"]["steps"] = 1;
  run_whole(first, "first");
  const fs::path weights = scratch_ / "weights";
  fs::copy_file(scratch_ / "first" / "checkpoints" / "step-00000001" / "model.safetensors", weights);
  Json json = configuration();
  json["head"] = {{"type", "two_level"}, {"by", "kmeans"}, {"classes", 4}, {"weights", weights.string()}};
  run_whole(json, "whole");
  EXPECT_THROW(make_trainer(json, scratch_ / "killed").run(kill_after(10)), Killed);
  Trainer rest = make_trainer(json, scratch_ / "killed");
  EXPECT_TRUE(rest.run());
  expect_same_run("whole", "killed");
  EXPECT_EQ(rest.summary("finished")["head_weights"].get<std::string>().size(), 32u);
  EXPECT_EQ(rest.summary("finished")["initial_weights"], "");
  fs::remove(weights);
  EXPECT_ERROR(make_trainer(json, scratch_ / "fresh"), "weights must be readable");
}

TEST_F(Resume, KnowsTheBestOfTheFirstPart) {
  Json json = configuration();
  run_whole(json, "whole");
  EXPECT_THROW(make_trainer(json, scratch_ / "killed").run(kill_after(33)), Killed);
  Trainer rest = make_trainer(json, scratch_ / "killed");
  rest.run();
  const Json summary = rest.summary("finished");
  EXPECT_EQ(read_file(scratch_ / "whole" / "checkpoints" / "best.json"),
            read_file(scratch_ / "killed" / "checkpoints" / "best.json"));
  EXPECT_EQ(summary["final"]["step"], 40);
  EXPECT_EQ(summary["steps"], 40);
  EXPECT_EQ(summary["tokens"], 40 * 64);
}

TEST_F(Resume, AfterTheLastCheckpointTheSummaryIsStillThatOfTheWholeRun) {
  run_whole(configuration(), "whole");
  EXPECT_THROW(make_trainer(configuration(), scratch_ / "killed").run(kill_after(40)), Killed);
  Trainer rest = make_trainer(configuration(), scratch_ / "killed");
  EXPECT_EQ(rest.resumed_step(), 40);
  EXPECT_TRUE(rest.run());
  const Json summary = rest.summary("finished");
  std::vector<double> speeds;
  for (const Json& line : read_log(scratch_ / "killed")) speeds.push_back(line.at("tokens_per_second"));
  std::sort(speeds.begin(), speeds.end());
  EXPECT_EQ(summary["tokens_per_second"], speeds[speeds.size() / 2]);
  EXPECT_EQ(summary["final"], read_log(scratch_ / "killed").back());
  expect_same_run("whole", "killed");
}

TEST_F(Resume, SpeedIsTheMedianOverAllSteps) {
  EXPECT_THROW(make_trainer(configuration(), scratch_ / "killed").run(kill_after(35)), Killed);
  Trainer rest = make_trainer(configuration(), scratch_ / "killed");
  rest.run();
  std::vector<double> speeds;
  for (const Json& line : read_log(scratch_ / "killed")) speeds.push_back(line.at("tokens_per_second"));
  std::sort(speeds.begin(), speeds.end());
  EXPECT_EQ(rest.summary("finished")["tokens_per_second"], speeds[20]);
}

TEST_F(Resume, ALogThatLostLinesIsRefused) {
  EXPECT_THROW(make_trainer(configuration(), scratch_ / "run").run(kill_after(17)), Killed);  // checkpoints 10 and 14
  const fs::path log = scratch_ / "run" / "log.jsonl";
  const std::string whole = read_file(log);
  std::size_t second = whole.find('\n', whole.find('\n') + 1) + 1;
  write_text(log, whole.substr(0, second));
  EXPECT_ERROR(make_trainer(configuration(), scratch_ / "run"), "must have a line for each of the 14 steps");
  std::string bad = whole;
  bad[second + 1] = '\x01';
  write_text(log, bad);
  EXPECT_ERROR(make_trainer(configuration(), scratch_ / "run"), "line 3 must be the JSON object of step 3");
  bad = whole;
  const std::size_t digit = bad.find("\"loss\":", second) + 9;  // behind the point, in which every figure has digits
  bad[digit] = bad[digit] == '1' ? '2' : '1';
  write_text(log, bad);
  EXPECT_ERROR(make_trainer(configuration(), scratch_ / "run"), "lines 1 to 14 must be those");
  EXPECT_EQ(read_file(log), bad);
  write_text(log, whole);
  EXPECT_TRUE(make_trainer(configuration(), scratch_ / "run").run());
}

TEST_F(Resume, ADamagedCheckpointIsRefusedAndTheOneBeforeItGoesOn) {
  run_whole(configuration(), "whole");
  EXPECT_THROW(make_trainer(configuration(), scratch_ / "run").run(kill_after(17)), Killed);
  const fs::path newest = scratch_ / "run" / "checkpoints" / "step-00000014";
  std::string bytes = read_file(newest / "optimizer.safetensors");
  bytes[bytes.size() - 5] ^= 1;
  write_text(newest / "optimizer.safetensors", bytes);
  EXPECT_ERROR(make_trainer(configuration(), scratch_ / "run"), "the checkpoint of step 10 is whole");
  fs::remove_all(newest);
  EXPECT_TRUE(make_trainer(configuration(), scratch_ / "run").run());
  expect_same_run("whole", "run");
}

TEST_F(Resume, ARunThatGoesOnHasNoSummary) {
  Trainer trainer = make_trainer(configuration(), scratch_ / "run");
  trainer.folder().write_summary({{"state", "stopped"}});
  EXPECT_THROW(trainer.run(kill_after(3)), Killed);
  EXPECT_FALSE(read_summary(scratch_ / "run").has_value());
}

TEST_F(Resume, AnotherDatasetOrTokenizerIsRefused) {
  EXPECT_THROW(make_trainer(configuration(), scratch_ / "run").run(kill_after(8)), Killed);
  write_dataset(scratch_ / "data", "other content");
  EXPECT_ERROR(make_trainer(configuration(), scratch_ / "run"),
               "must come from the same dataset content, got other content");
  write_dataset(scratch_ / "data", "content", "other tokenizer");
  EXPECT_ERROR(make_trainer(configuration(), scratch_ / "run"),
               "must come from a dataset with the same tokenizer bytes, got other tokenizer");
}

TEST_F(TrainerRuns, MicroBatchesAddUpToTheWholeBatch) {
  Json json = configuration();
  json["training"]["steps"] = 10;
  json["loss"] = {{"z_loss", 1e-3}, {"label_smoothing", 0.1}};
  for (const int parts : {1, 2, 4}) {
    json["data"]["micro_batches"] = parts;
    make_trainer(json, scratch_ / std::to_string(parts)).run();
  }
  const auto whole = figures_of(scratch_ / "1");
  for (const char* other : {"2", "4"}) {
    const auto split = figures_of(scratch_ / other);
    for (std::size_t line = 0; line < 10; ++line)
      for (const char* key : {"loss", "gradient_norm"})  // float32 sums in another order, over ten steps
        EXPECT_NEAR(split[line][key].get<double>(), whole[line][key].get<double>(),
                    2e-4 * whole[line][key].get<double>());
    EXPECT_NEAR(split[9]["validation"]["loss"].get<double>(), whole[9]["validation"]["loss"].get<double>(), 1e-3);
  }
}

TEST_F(TrainerRuns, LearnsWhatThereIsToLearn) {
  Json json = configuration();
  json["training"]["steps"] = 300;
  json["training"]["checkpoint_every"] = json["training"]["validate_every"] = 0;
  json["data"]["validation_tokens"] = 384;
  run_whole(json, "run");
  const auto log = figures_of(scratch_ / "run");
  EXPECT_NEAR(log.front()["loss"].get<double>(), std::log(64.0), 0.1);  // near uniform at first
  EXPECT_LT(log.back()["validation"]["loss"].get<double>(), 1.9);       // the source's entropy is 1.31,
  EXPECT_GT(log.back()["validation"]["loss"].get<double>(), 1.0);       // of a sample of 384 within 0.12
}

TEST_F(TrainerRuns, FirstLossAndNormAreThoseOfTheModelItself) {
  Json json = configuration();
  json["training"]["clip_norm"] = 0.01;  // clipping must not show in the logged norm
  Trainer trainer = make_trainer(json, scratch_ / "run");
  const Batch batch = trainer.batches().training_batch(0);
  const at::Tensor loss =
      trainer.model().head->loss({trainer.model().decoder.forward(batch.tokens), batch.tokens, {}}, batch.targets);
  loss.backward();
  std::vector<at::Tensor> gradients;
  for (const ParameterPtr& parameter : trainer.model().parameters()) gradients.push_back(take_gradient(*parameter));
  const double want = loss.item<double>(), norm = gradient_norm(gradients);
  EXPECT_THROW(trainer.run(kill_after(1)), Killed);
  const Json line = figures_of(scratch_ / "run").at(0);
  EXPECT_EQ(line["loss"].get<double>(), want);
  EXPECT_NEAR(line["gradient_norm"].get<double>(), norm, 1e-6 * norm);
  EXPECT_EQ(line["learning_rate"].get<double>(), 0.01 / 4);
  EXPECT_EQ(line["tokens"], 64);
}

TEST_F(TrainerRuns, ClippingScalesTheGradientAndNothingElse) {
  // With plain SGD the first step is -rate * clip * g / |g|.
  Json json = configuration();
  json["optimizer"] = {
      {"type", "sgd"}, {"learning_rate", 1}, {"weight_decay", 0}, {"momentum", 0}, {"nesterov", false}};
  json["schedule"] = {{"type", "constant"}, {"warmup_steps", 0}};
  json["training"]["clip_norm"] = 0.01;
  Trainer trainer = make_trainer(json, scratch_ / "run");
  std::vector<at::Tensor> before;
  for (const ParameterPtr& parameter : trainer.model().parameters())
    before.push_back(parameter->value.detach().clone());
  EXPECT_THROW(trainer.run(kill_after(1)), Killed);
  std::vector<at::Tensor> moved;
  const ParameterList after = trainer.model().parameters();
  for (std::size_t index = 0; index < after.size(); ++index)
    moved.push_back(after[index]->value.detach() - before[index]);
  EXPECT_NEAR(gradient_norm(moved), 0.01, 1e-5);
}

TEST_F(TrainerRuns, ValidationFollowsFromTheLoss) {
  run_whole(configuration(), "run");
  std::int64_t validations = 0;
  for (const Json& line : figures_of(scratch_ / "run")) {
    EXPECT_EQ(line.contains("validation"), line["step"].get<int>() % 10 == 0);
    if (!line.contains("validation")) continue;
    ++validations;
    const Json& v = line["validation"];
    const double loss = v["loss"].get<double>();
    EXPECT_NEAR(v["perplexity"].get<double>(), std::exp(loss), 1e-9 * std::exp(loss));
    EXPECT_NEAR(v["bits_per_byte"].get<double>(), loss / std::log(2.0) / 2, 1e-9);  // two bytes a token
    EXPECT_EQ(v["tokens"], 128);
    EXPECT_TRUE(v["top1_accuracy"] >= 0 && v["top1_accuracy"] <= 1);
  }
  EXPECT_EQ(validations, 4);
}

TEST_F(TrainerRuns, TheLossIsReadEverySoManySteps) {
  Json json = configuration();
  run_whole(json, "each");
  json["training"]["log_every"] = 6;
  run_whole(json, "sixth");
  const std::vector<Json> each = figures_of(scratch_ / "each"), sixth = figures_of(scratch_ / "sixth");
  ASSERT_EQ(sixth.size(), 40u);
  for (std::size_t index = 0; index < each.size(); ++index) {
    const std::size_t step = index + 1;
    const bool reads = step % 6 == 0 || step % 10 == 0;  // validations at 10, 20, ...
    Json want = each[index];
    if (!reads) want.erase("loss");
    EXPECT_EQ(sixth[index], want) << step;
  }
  EXPECT_TRUE(last_file("each", "model.safetensors") == last_file("sixth", "model.safetensors"));
  EXPECT_THROW(make_trainer(json, scratch_ / "stopped").run(kill_after(9)), Killed);
  run_whole(json, "stopped");
  expect_same_run("sixth", "stopped");
}

TEST_F(TrainerRuns, SummaryCountsParametersOfBodyAndHead) {
  const Json summary = make_trainer(configuration(), scratch_ / "run").summary("stopped");
  EXPECT_EQ(summary["parameters_head"], 64 * 16);
  EXPECT_EQ(summary["parameters_body"], 64 * 16 + 4 * 16 * 16 + 3 * 16 * 24 + 3 * 16);
  EXPECT_EQ(summary["parameters"], summary["parameters_head"].get<int>() + summary["parameters_body"].get<int>());
  EXPECT_EQ(summary["state"], "stopped");
  EXPECT_EQ(summary["vocab_size"], 64);
}

TEST_F(TrainerRuns, ALossThatIsNotFiniteStopsAndKeepsTheCheckpoint) {
  Json json = configuration();
  json["optimizer"]["learning_rate"] = 1e30;
  json["optimizer"]["type"] = "sgd";
  json["training"]["clip_norm"] = 0;
  json["training"]["checkpoint_every"] = 1;
  const std::string error = error_of([&] { make_trainer(json, scratch_ / "run").run(); });
  EXPECT_NE(error.find("must be finite, got "), error.npos) << error;
  EXPECT_NE(error.find(" at step 2; the checkpoint of step 1 is kept"), error.npos) << error;
  EXPECT_TRUE(fs::exists(scratch_ / "run" / "checkpoints" / "step-00000001" / "state.json"));
  EXPECT_EQ(figures_of(scratch_ / "run").size(), 1u);
  json["training"]["checkpoint_every"] = 0;
  EXPECT_ERROR(make_trainer(json, scratch_ / "other").run(), "there is no checkpoint yet");
}

TEST_F(TrainerRuns, AValidationLossThatIsNotFiniteIsADivergence) {
  Json json = configuration();
  json["optimizer"] = {{"type", "sgd"}, {"learning_rate", 1e15}};
  json["training"]["clip_norm"] = 0;
  json["schedule"] = {{"type", "constant"}, {"warmup_steps", 0}};
  json["training"]["steps"] = 1;
  Trainer trainer = make_trainer(json, scratch_ / "run");
  std::string error;
  try {
    trainer.run();
  } catch (const Divergence& divergence) {
    error = divergence.what();
  }
  EXPECT_NE(error.find("the validation loss must be finite, got "), error.npos) << error;
  EXPECT_NE(error.find(" at step 1; there is no checkpoint yet"), error.npos) << error;
  EXPECT_TRUE(read_log(scratch_ / "run").empty());  // the log has only steps that were done
  EXPECT_EQ(trainer.summary("failed")["steps"], 0);
}

/// Sees every third step.
class CountingObserver : public Observer {
 public:
  std::string name() const override { return "counting"; }
  bool wants(std::int64_t step) const override { return step % 3 == 0; }
  Json observe(const StepView& view) override {
    EXPECT_FALSE(view.input.hidden.requires_grad());
    EXPECT_EQ(view.input.hidden.sizes(), (at::IntArrayRef{64, 16}));
    return {{"step", view.step}, {"loss", view.head.loss(view.input, view.targets).item<double>()}};
  }
};

TEST_F(TrainerRuns, ObserversSeeTheParametersThatTheLossBelongsToAndChangeNothing) {
  run_whole(configuration(), "alone");
  Trainer trainer = make_trainer(configuration(), scratch_ / "observed");
  trainer.add_observer(std::make_unique<CountingObserver>());
  trainer.run();
  for (const Json& line : figures_of(scratch_ / "observed")) {
    ASSERT_EQ(line.contains("counting"), line["step"].get<int>() % 3 == 0);
    if (!line.contains("counting")) continue;
    EXPECT_EQ(line["counting"]["step"], line["step"]);
    EXPECT_EQ(line["counting"]["loss"], line["loss"]);
  }
  EXPECT_TRUE(last_file("alone", "model.safetensors") == last_file("observed", "model.safetensors"));
}

TEST_F(TrainerRuns, GradientHookSeesEveryGradientBeforeClipping) {
  // Halved gradients without clipping are what SGD at half the rate would make.
  Json json = configuration();
  json["optimizer"] = {{"type", "sgd"}, {"learning_rate", 0.5}, {"weight_decay", 0}};
  json["training"]["clip_norm"] = 0;
  Trainer exchanged = make_trainer(json, scratch_ / "exchanged");
  exchanged.set_gradient_hook([](std::vector<at::Tensor>& gradients) {
    for (at::Tensor& gradient : gradients) gradient.mul_(0.5);
  });
  exchanged.run();
  json["optimizer"]["learning_rate"] = 0.25;
  run_whole(json, "slower");
  const auto left = figures_of(scratch_ / "exchanged"), right = figures_of(scratch_ / "slower");
  for (std::size_t line = 0; line < left.size(); ++line)
    EXPECT_NEAR(left[line]["loss"].get<double>(), right[line]["loss"].get<double>(), 1e-5);
}

TEST_F(TrainerRuns, AFailedStartLeavesNothingInTheWayOfTheNext) {
  Json json = configuration();
  json["data"]["path"] = (scratch_ / "mistyped").string();
  EXPECT_ERROR(make_trainer(json, scratch_ / "run"), "path must be the folder of a dataset");
  run_whole(configuration(), "run");
}

}  // namespace
}  // namespace lmhead
