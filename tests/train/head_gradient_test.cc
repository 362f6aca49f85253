// Rules on the head's gradients within a run: what they leave alone, what they change, and that resuming stays exact.
#include "lmhead/heads/head_gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <gtest/gtest.h>

#include "lmhead/heads/weight_gradient_rule.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

/// A kill: nothing after step `step` happens, not even a save.
struct Killed {};
TrainerControl kill_after(std::int64_t step) {
  return {.on_step = [step](const StepRecord& record) {
    if (record.step == step) throw Killed();
  }};
}

using Gradients = std::vector<at::Tensor>;

class HeadGradientRuns : public testing::Test {
 protected:
  void SetUp() override { write_dataset(scratch_ / "data"); }
  Json configuration(const Json& head_gradient = nullptr) const {
    Json json = tiny_configuration(scratch_ / "data");
    json["model"]["num_hidden_layers"] = 2;
    json["training"]["steps"] = 20;
    if (!head_gradient.is_null()) json["head_gradient"] = head_gradient;
    return json;
  }
  /// The gradients of the first step as the exchange sees them, and the step's loss.
  std::pair<Gradients, double> first_step(const Json& json, const std::string& folder) const {
    Trainer trainer = make_trainer(json, scratch_ / folder);
    Gradients seen;
    trainer.set_gradient_hook([&](Gradients& gradients) {
      for (const at::Tensor& gradient : gradients) seen.push_back(gradient.clone());
    });
    EXPECT_THROW(trainer.run(kill_after(1)), Killed);
    return {seen, figures_of(scratch_ / folder)[0]["loss"].get<double>()};
  }
  /// What the first step of plain SGD at rate 1 takes off every parameter.
  Gradients sent_in_first_step(Json json, const std::string& folder) const {
    json["optimizer"] = {
        {"type", "sgd"}, {"learning_rate", 1}, {"weight_decay", 0}, {"momentum", 0}, {"nesterov", false}};
    json["schedule"] = {{"type", "constant"}, {"warmup_steps", 0}};
    json["training"]["clip_norm"] = 0;
    Trainer trainer = make_trainer(json, scratch_ / folder);
    Gradients moved;
    for (const ParameterPtr& parameter : trainer.model().parameters())
      moved.push_back(parameter->value.detach().clone());
    EXPECT_THROW(trainer.run(kill_after(1)), Killed);
    for (std::size_t index = 0; index < moved.size(); ++index)
      moved[index] -= trainer.model().parameters()[index]->value.detach();
    return moved;
  }
  ScratchFolder scratch_;
};

double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

Json hidden(Json options) { return {{"hidden", std::move(options)}}; }

TEST_F(HeadGradientRuns, IdentitySettingsArePlainBackpropagationBitForBit) {
  make_trainer(configuration(), scratch_ / "plain").run();
  const std::string model = "checkpoints/step-00000020/model.safetensors";
  const std::string want = read_file(scratch_ / "plain" / model);
  const Json settings[] = {
      Json::object(),
      {{"hidden", {{"rule", "exact"}}}, {"weight", {{"rule", "exact"}}}, {"penalties", {{"alignment", 0}}}},
      hidden({{"rule", "top_subspace"}, {"rank", 16}}),
      hidden({{"rule", "top_subspace"}, {"rank", 99}, {"at", "last_block_input"}}),
      hidden({{"rule", "random_subspace"}, {"rank", 16}}),
      hidden({{"rule", "noise"}, {"rank", 16}}),
      hidden({{"rule", "whitened"}, {"exponent", 0}, {"matrix", "fisher"}}),
      {{"weight", {{"rule", "whitened"}, {"exponent", 0}}}}};
  int count = 0;
  for (const Json& setting : settings) {
    SCOPED_TRACE(setting.dump());
    const std::string name = "run-" + std::to_string(count++);
    make_trainer(configuration(setting), scratch_ / name).run();
    EXPECT_TRUE(read_file(scratch_ / name / model) == want);
    auto left = figures_of(scratch_ / name), right = figures_of(scratch_ / "plain");
    for (Json& line : left) line.erase("head_gradient");
    EXPECT_EQ(left, right);
  }
}

TEST_F(HeadGradientRuns, HiddenRulesLeaveLossAndHeadAloneAndChangeTheBody) {
  const auto [exact, loss] = first_step(configuration(), "exact");
  int count = 0;
  for (const Json& rule :
       {Json{{"rule", "top_subspace"}, {"rank", 4}}, Json{{"rule", "random_subspace"}, {"rank", 4}},
        Json{{"rule", "noise"}, {"rank", 4}}, Json{{"rule", "fixed_feedback"}},
        Json{{"rule", "whitened"}, {"matrix", "gradient_covariance"}}, Json{{"rule", "row_normalized"}}})
    for (const char* at : {"features", "last_block_input"}) {
      SCOPED_TRACE(rule.dump() + at);
      Json options = rule;
      options["at"] = at;
      const auto [changed, changed_loss] = first_step(configuration(hidden(options)), "run-" + std::to_string(count++));
      EXPECT_EQ(changed_loss, loss);
      EXPECT_TRUE(changed.back().equal(exact.back()));  // lm_head.weight
      EXPECT_GT(largest(changed.front() - exact.front()), 1e-3 * largest(exact.front()));
      // Below the last block's input the final norm and the last block keep their exact gradients.
      const std::size_t norm = exact.size() - 2;
      EXPECT_EQ(changed[norm].equal(exact[norm]), std::string(at) == "last_block_input");
    }
}

TEST_F(HeadGradientRuns, TheBackboneReceivesTheRulesGradientAtTheSizeOfTheExactOne) {
  // Backward by hand from features whose gradient is changed by hand, in either place.
  for (const char* where : {"features", "last_block_input"}) {
    SCOPED_TRACE(where);
    const Json json = configuration(hidden({{"rule", "top_subspace"}, {"rank", 3}, {"at", where}}));
    const Gradients got = first_step(json, std::string("run-") + where).first;
    Trainer trainer = make_trainer(json, scratch_ / (std::string("by-hand-") + where));
    const Batch batch = trainer.batches().training_batch(0);
    const CausalModel& model = trainer.model();
    const at::Tensor v =
        std::get<2>(at::linalg_svd(model.head->linear_map()->weight.to(at::kDouble), false)).narrow(0, 0, 3);
    const auto change = [&](const at::Tensor& exact) {
      const at::Tensor changed = exact.matmul(v.t().matmul(v).to(at::kFloat));
      return changed * (exact.norm() / changed.norm());
    };
    std::vector<at::Tensor> layers;
    const at::Tensor features = model.decoder.forward(batch.tokens, &layers);
    if (std::string(where) == "features") {
      const at::Tensor leaf = features.detach().requires_grad_(true);
      model.head->loss({leaf, batch.tokens, {}}, batch.targets).backward();
      features.backward(change(leaf.grad()));
    } else {
      layers[0].register_hook([&](const at::Tensor& exact) { return change(exact); });
      model.head->loss({features, batch.tokens, {}}, batch.targets).backward();
    }
    for (std::size_t index = 0; index < got.size(); ++index) {
      const at::Tensor want = take_gradient(*model.parameters()[index]);
      EXPECT_LE(largest(got[index] - want), 1e-5 * largest(want)) << model.parameters()[index]->name;
    }
  }
}

TEST_F(HeadGradientRuns, WeightRulesChangeTheHeadsMatrixAlone) {
  const Gradients exact = sent_in_first_step(configuration(), "exact");
  const at::Tensor weight = make_trainer(configuration(), scratch_ / "fresh").model().head->linear_map()->weight;
  const at::Tensor parallel = project_on_columns(weight, exact.back());
  for (const char* rule : {"parallel", "perpendicular", "whitened"})
    for (const bool match : {true, false}) {
      SCOPED_TRACE(rule);
      const Json options = {{"rule", rule}, {"match_rms", match}, {"matrix", "feature_covariance"}};
      const std::string name = rule + std::to_string(match);
      const Gradients sent = sent_in_first_step(configuration({{"weight", options}}), name);
      for (std::size_t index = 0; index + 1 < sent.size(); ++index) EXPECT_TRUE(sent[index].equal(exact[index]));
      if (match) {
        EXPECT_NEAR((sent.back().norm() / exact.back().norm()).item<double>(), 1, 1e-4);
      }
      if (std::string(rule) == "whitened") {
        EXPECT_GT(largest(sent.back() - exact.back()), 0.01 * largest(exact.back()));
        continue;
      }
      at::Tensor want = std::string(rule) == "parallel" ? parallel : exact.back() - parallel;
      if (match) want = want * (exact.back().norm() / want.norm());
      // What a step takes off W is known to half an ulp of W.
      EXPECT_LE(largest(sent.back() - want), 1e-4 * largest(want) + 1e-7 * largest(weight));
    }
}

TEST_F(HeadGradientRuns, PenaltiesAddTheirGradientToTheHeadAndNothingToTheLoss) {
  for (const int parts : {1, 2}) {
    Json json = configuration();
    json["data"]["micro_batches"] = parts;
    const std::string name = std::to_string(parts);
    const Gradients exact = sent_in_first_step(json, "exact" + name);
    json["head_gradient"]["penalties"] = {{"orthogonality", 0.3}, {"alignment", 0.7}};
    const Gradients sent = sent_in_first_step(json, "penalties" + name);
    EXPECT_EQ(figures_of(scratch_ / ("exact" + name))[0]["loss"],
              figures_of(scratch_ / ("penalties" + name))[0]["loss"]);
    for (std::size_t index = 0; index + 1 < sent.size(); ++index) EXPECT_TRUE(sent[index].equal(exact[index]));

    const Trainer trainer = make_trainer(json, scratch_ / ("fresh" + name));
    const CausalModel& model = trainer.model();
    at::Tensor want = 0.3 * orthogonality_penalty(model.head->linear_map()->weight).gradient;
    for (std::int64_t part = 0; part < parts; ++part) {
      const Batch batch = trainer.batches().training_batch(0, part);
      HeadPass pass;
      pass.hidden = model.decoder.forward(batch.tokens).detach();
      pass.targets = batch.targets;
      pass.map = model.head->linear_map();
      want = want + (0.7 / parts) * alignment_penalty(pass).gradient;
    }
    EXPECT_LE(largest(sent.back() - exact.back() - want), 1e-4 * largest(want));
  }
}

TEST_F(HeadGradientRuns, ResumingIsExactWithAMatrixOlderThanTheCheckpoint) {
  const Json settings[] = {
      hidden({{"rule", "top_subspace"}, {"rank", 4}, {"refresh_every", 7}}),
      hidden({{"rule", "random_subspace"}, {"rank", 4}, {"refresh_every", nullptr}}),
      hidden({{"rule", "noise"}, {"rank", 4}, {"refresh_every", 7}}),
      hidden({{"rule", "fixed_feedback"}}),
      hidden(
          {{"rule", "whitened"}, {"matrix", "gradient_covariance"}, {"refresh_every", 7}, {"at", "last_block_input"}}),
      {{"hidden", {{"rule", "whitened"}, {"matrix", "fisher"}}},
       {"weight", {{"rule", "whitened"}, {"matrix", "random"}, {"refresh_every", 7}}}},
      {{"hidden", {{"rule", "row_normalized"}}}, {"penalties", {{"orthogonality", 0.1}, {"alignment", 0.1}}}}};
  int count = 0;
  for (const Json& setting : settings) {
    SCOPED_TRACE(setting.dump());
    Json json = configuration(setting);
    json["training"]["checkpoint_every"] = 11;  // 4 steps after a refresh, 4 before the next
    json["training"]["validate_every"] = 0;
    json["data"]["micro_batches"] = 1 + count % 2;
    json["training"]["precision"] = count % 3 == 2 ? "bfloat16" : "float32";
    const std::string whole = "whole-" + std::to_string(count), killed = "killed-" + std::to_string(count++);
    make_trainer(json, scratch_ / whole).run();
    EXPECT_THROW(make_trainer(json, scratch_ / killed).run(kill_after(13)), Killed);
    Trainer rest = make_trainer(json, scratch_ / killed);
    EXPECT_EQ(rest.resumed_step(), 11);
    EXPECT_TRUE(rest.run());
    EXPECT_EQ(figures_of(scratch_ / whole), figures_of(scratch_ / killed));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      EXPECT_TRUE(read_file(scratch_ / whole / "checkpoints/step-00000020" / file) ==
                  read_file(scratch_ / killed / "checkpoints/step-00000020" / file))
          << file;
  }
}

TEST_F(HeadGradientRuns, LogTellsAngleSizeAndTimeWhereItValidates) {
  make_trainer(
      configuration({{"hidden", {{"rule", "top_subspace"}, {"rank", 4}}}, {"weight", {{"rule", "perpendicular"}}}}),
      scratch_ / "rules")
      .run();
  int lines = 0;
  for (const Json& line : read_log(scratch_ / "rules")) {
    ASSERT_EQ(line.contains("head_gradient"), line.contains("validation"));
    if (!line.contains("head_gradient")) continue;
    ++lines;
    const Json& figures = line["head_gradient"];
    for (const char* place : {"hidden", "weight"}) {
      // A projection's size is its cosine.
      EXPECT_NEAR(figures[place]["cosine"].get<double>(), figures[place]["norm_ratio"].get<double>(), 1e-4) << place;
      EXPECT_LT(figures[place]["cosine"].get<double>(), 1);
    }
    EXPECT_GT(figures["seconds_per_step"].get<double>(), 0);
    EXPECT_FALSE(figures.contains("penalties"));
  }
  EXPECT_EQ(lines, 2);
  make_trainer(configuration({{"penalties", {{"alignment", 0.1}}}}), scratch_ / "penalty").run();
  const Json last = read_log(scratch_ / "penalty").back()["head_gradient"];
  EXPECT_TRUE(last["penalties"]["alignment"].get<double>() > 0 && last["penalties"]["alignment"].get<double>() < 1);
  EXPECT_FALSE(last.contains("hidden") || last.contains("weight") || last["penalties"].contains("orthogonality"));
}

TEST_F(HeadGradientRuns, ALossThatIsNotFiniteIsStillSaidToBeSo) {
  Json json = configuration(hidden({{"rule", "whitened"}, {"matrix", "fisher"}}));
  json["optimizer"]["learning_rate"] = 1e30;
  json["optimizer"]["type"] = "sgd";
  json["training"]["clip_norm"] = 0;
  EXPECT_ERROR(make_trainer(json, scratch_ / "run").run(), "must be finite, got ");
}

TEST_F(HeadGradientRuns, WhatMakesNoSenseIsRefusedAtTheStart) {
  const auto start = [&](const Json& json) { make_trainer(json, scratch_ / "refused"); };
  for (const Json& setting : {Json{{"weight", {{"rule", "parallel"}}}}, Json{{"penalties", {{"orthogonality", 1}}}}}) {
    Json tied = configuration(setting), factorised = tied;
    tied["model"]["tie_word_embeddings"] = true;
    factorised["head"] = {{"type", "low_rank"}, {"rank", 4}};
    EXPECT_ERROR(start(tied), "for a head without one matrix of its own (tied, factorised or not linear)");
    EXPECT_ERROR(start(factorised), "for a head without one matrix of its own (tied, factorised or not linear)");
  }
  EXPECT_ERROR(start(configuration({{"weight", {{"rule", "parallel"}}}, {"penalties", {{"alignment", 1}}}})),
               "head_gradient.weight.rule must be exact with penalties");
  EXPECT_ERROR(start(configuration(hidden({{"rule", "noise"}}))), "rank must be a number for rule noise, got null");
  Json shallow = configuration(hidden({{"rule", "row_normalized"}, {"at", "last_block_input"}}));
  shallow["model"]["num_hidden_layers"] = 1;
  EXPECT_ERROR(start(shallow), "head_gradient.hidden.at must be features for a model of fewer than 2 layers");
  EXPECT_ERROR(start(configuration({{"hiden", Json::object()}})), "did you mean head_gradient.hidden?");
}

}  // namespace
}  // namespace lmhead
