// A head that is tied to the embedding for a share of a run, and then goes on alone.
#include <gtest/gtest.h>

#include "lmhead/models/safetensors.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

constexpr const char *kHead = "lm_head.weight", *kEmbedding = "model.embed_tokens.weight";

class TiedShare : public testing::Test {
 protected:
  TiedShare() { write_dataset(scratch_ / "data"); }

  Json configuration(double share) const {
    Json json = tiny_configuration(scratch_ / "data");
    json["model"]["tie_word_embeddings"] = true;
    json["head"] = {{"type", "linear"}, {"tied_share", share}};
    json["training"]["steps"] = 20;
    json["training"]["clip_norm"] = 0;  // the copy's gradient counts in the norm
    json["training"]["validate_every"] = 5;
    json["training"]["checkpoint_every"] = 1;
    json["training"]["keep_last"] = 20;
    return json;
  }
  std::vector<Json> run(const Json& json, const char* name) const {
    EXPECT_TRUE(make_trainer(json, scratch_ / name).run());
    return figures_of(scratch_ / name);
  }
  at::Tensor saved(const char* name, int step, const char* file, const std::string& tensor) const {
    const std::string folder = "step-" + std::string(step < 10 ? "0000000" : "000000") + std::to_string(step);
    return SafetensorsFile::open(scratch_ / name / "checkpoints" / folder / file).tensor(tensor).clone();
  }
  bool is_copy(const char* name, int step) const {
    return saved(name, step, "model.safetensors", kHead).equal(saved(name, step, "model.safetensors", kEmbedding));
  }

  ScratchFolder scratch_;
};

TEST_F(TiedShare, IsTheTiedRunUntilItsShareIsOver) {
  for (const char* precision : {"float32", "bfloat16"}) {
    SCOPED_TRACE(precision);
    Json json = configuration(0.5), whole = configuration(1);
    json["training"]["precision"] = whole["training"]["precision"] = precision;
    const std::string name = precision, tied = name + "-tied";
    const std::vector<Json> log = run(json, name.c_str()), other = run(whole, tied.c_str());
    for (int step = 1; step <= 11; ++step)  // the eleventh is the first that W meets alone, as it was copied
      EXPECT_EQ(log[step - 1]["loss"], other[step - 1]["loss"]) << step;
    EXPECT_EQ(log[9]["validation"]["loss"], other[9]["validation"]["loss"]);
    EXPECT_NE(log[11]["loss"], other[11]["loss"]);
    for (const int step : {1, 5, 10}) EXPECT_TRUE(is_copy(name.c_str(), step)) << step;
    for (const int step : {11, 20}) EXPECT_FALSE(is_copy(name.c_str(), step)) << step;
    EXPECT_LT(log.back()["validation"]["loss"].get<double>(), log[4]["validation"]["loss"].get<double>());
  }
}

TEST_F(TiedShare, TheMatrixHasAveragesOfItsOwnGradientWhenItGoesOnAlone) {
  run(configuration(0.5), "run");
  const auto average = [&](const char* name) {
    return saved("run", 10, "optimizer.safetensors", std::string(name) + ".exp_avg");
  };
  const at::Tensor head = average(kHead), embedding = average(kEmbedding);
  EXPECT_GT(head.norm().item<double>(), 0);
  EXPECT_FALSE(head.equal(embedding));  // that has the gradient of the rows looked up beside
}

TEST_F(TiedShare, ResumesBitForBitBeforeAndAfterTheEnd) {
  const Json json = configuration(0.5);
  const std::vector<Json> whole = run(json, "whole");
  for (const std::int64_t stop : {7, 10, 13}) {
    const std::string name = "stopped" + std::to_string(stop);
    EXPECT_FALSE(make_trainer(json, scratch_ / name)
                     .run({.on_step = [](const StepRecord&) {},
                           .should_stop = [count = std::int64_t(0), stop]() mutable { return ++count == stop; }}));
    EXPECT_EQ(run(json, name.c_str()), whole) << stop;
  }
}

TEST_F(TiedShare, OfNothingBeginsAsACopyAndIsNeverTied) {
  const std::vector<Json> log = run(configuration(0), "never"), tied = run(configuration(1), "tied");
  EXPECT_EQ(log[0]["loss"], tied[0]["loss"]);
  EXPECT_NE(log[1]["loss"], tied[1]["loss"]);
  EXPECT_FALSE(is_copy("never", 1));
}

TEST_F(TiedShare, IsRefusedWhereNothingIsTied) {
  Json json = configuration(0.5);
  json["model"]["tie_word_embeddings"] = false;
  EXPECT_ERROR(make_trainer(json, scratch_ / "untied"),
               "head.tied_share must be 1 where model.tie_word_embeddings is false, got 0.5");
  EXPECT_ERROR(read_options<TrainConfiguration>(configuration(1.5)), "tied_share must be");
}

}  // namespace
}  // namespace lmhead
