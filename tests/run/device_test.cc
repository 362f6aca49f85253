// Training on any device is training on the CPU within rounding: every optimiser, rules on the head's gradients,
// observers, resuming; and a run goes from one device to another.
#include "lmhead/base/device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "lmhead/run/run.h"
#include "lmhead/train/memory_estimate.h"
#include "tests/support/devices.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

using namespace test;

class DeviceRuns : public testing::Test {
 protected:
  DeviceRuns() { write_dataset(scratch_ / "data"); }

  /// Twenty steps with `changes`, merged into the configuration.
  Json configuration(const Json& changes = Json::object(),
                     c10::Device device = c10::Device(c10::DeviceType::CPU)) const {
    Json json = tiny_configuration(scratch_ / "data");
    json["training"].update({{"steps", 20}, {"device", device.str()}});
    json.merge_patch(changes);
    return json;
  }
  std::vector<Json> log_of(const Json& configuration, const std::string& name, std::int64_t steps = 0) {
    const auto stop = [count = std::int64_t(0), steps]() mutable { return ++count == steps; };
    run_training(configuration, scratch_ / name, {.trainer = {.should_stop = stop}});
    return figures_of(scratch_ / name);
  }

  const ScratchFolder scratch_;
};

/// Numbers within `tolerance` of each other; the rest alike.
void expect_close(const Json& got, const Json& want, double tolerance, const std::string& where) {
  if (want.is_number_float()) {
    ASSERT_TRUE(got.is_number()) << where;
    EXPECT_NEAR(got.get<double>(), want.get<double>(), tolerance * (1e-2 + std::abs(want.get<double>()))) << where;
  } else if (want.is_structured()) {
    ASSERT_EQ(got.size(), want.size()) << where << got << want;
    for (auto left = got.begin(), right = want.begin(); right != want.end(); ++left, ++right)
      expect_close(*left, *right, tolerance, where + "." + (want.is_object() ? right.key() : ""));
  } else {
    EXPECT_EQ(got, want) << where;
  }
}

Json group(const char* pattern, const Json& update) {
  Json one = update;
  one["pattern"] = pattern;
  return {{"optimizer", {{"groups", {one}}}}};
}

TEST_F(DeviceRuns, TakeEveryOptimiser) {
  const std::pair<std::string, Json> all[] = {
      {"adamw", Json::object()},
      {"in two parts", {{"data", {{"micro_batches", 2}}}}},
      {"amsgrad", group("lm_head.weight", {{"type", "adamw"}, {"amsgrad", true}})},
      {"sgd", {{"optimizer", {{"type", "sgd"}, {"learning_rate", 0.1}}}}},
      {"muon", {{"optimizer", {{"type", "muon"}}}}},
      {"coupled", group("lm_head.weight", {{"type", "adamw"}, {"coupled", true}})},
      {"row_normalized", group("lm_head.weight", {{"type", "row_normalized"}})},
      {"sign", group("lm_head.weight", {{"type", "sign"}})},
      {"clipped", {{"training", {{"clip_norm", 0.05}}}}},
  };
  for (const auto& [name, changes] : all) {
    const std::vector<Json> want = log_of(configuration(changes), name);
    ASSERT_EQ(want.size(), 20u) << name;
    for (const c10::Device device : other_devices())
      expect_close(log_of(configuration(changes, device), name + " there"), want, 2e-3, name);
  }
}

TEST_F(DeviceRuns, TakeBfloat16) {
  const Json changes = {{"training", {{"precision", "bfloat16"}}}};
  const std::vector<Json> want = log_of(configuration(changes), "cpu");
  for (const c10::Device device : other_devices()) {
    const std::vector<Json> got = log_of(configuration(changes, device), "there");
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t step = 0; step < want.size(); ++step)
      EXPECT_NEAR(got[step]["loss"].get<double>(), want[step]["loss"].get<double>(), 0.05);
  }
}

TEST_F(DeviceRuns, TakeFloat16WithItsLossScaled) {
  const Json changes = {{"training", {{"precision", "float16"}, {"log_every", 4}}}};
  const std::vector<Json> exact = log_of(configuration(), "float32"), want = log_of(configuration(changes), "cpu");
  for (const c10::Device device : other_devices()) {
    const std::vector<Json> got = log_of(configuration(changes, device), "there");
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t step = 0; step < want.size(); ++step) {
      EXPECT_EQ(got[step].contains("loss"), want[step].contains("loss")) << step;
      EXPECT_EQ(got[step].at("loss_scale"), want[step].at("loss_scale")) << step;
      if (!got[step].contains("loss")) continue;
      EXPECT_NEAR(got[step]["loss"].get<double>(), exact[step]["loss"].get<double>(), 0.02) << step;
    }
  }
}

TEST_F(DeviceRuns, TakeEveryRuleOnTheHeadsGradients) {
  const auto hidden = [](const Json& options) { return Json{{"head_gradient", {{"hidden", options}}}}; };
  const std::pair<std::string, Json> all[] = {
      {"top_subspace", hidden({{"rule", "top_subspace"}, {"rank", 8}})},
      {"random_subspace", hidden({{"rule", "random_subspace"}, {"rank", 8}})},
      {"noise", hidden({{"rule", "noise"}, {"rank", 8}})},
      {"fixed_feedback", hidden({{"rule", "fixed_feedback"}})},
      {"row_normalized", hidden({{"rule", "row_normalized"}})},
      {"whitened", hidden({{"rule", "whitened"}, {"matrix", "fisher"}, {"refresh_every", 4}})},
      {"random", hidden({{"rule", "whitened"}, {"matrix", "random"}})},
      {"weight", {{"head_gradient", {{"weight", {{"rule", "whitened"}}}}}}},
      {"penalties", {{"head_gradient", {{"penalties", {{"orthogonality", 0.01}, {"alignment", 0.01}}}}}}},
  };
  for (const auto& [name, changes] : all) {
    const std::vector<Json> want = log_of(configuration(changes), name);
    for (const c10::Device device : other_devices())
      expect_close(log_of(configuration(changes, device), name + " there"), want, 5e-3, name);
  }
}

TEST_F(DeviceRuns, AreObserved) {
  const Json changes = {{"observe",
                         {{"gradient_retention", {{"every", 5}}},
                          {"diagnostics",
                           {{"every", 10},
                            {"quality", true},
                            {"gradient_retention", true},
                            {"local_retention", true},
                            {"token_breakdown", true},
                            {"gradient_spectrum", true},
                            {"update_direction", true},
                            {"head_spectrum", true}}}}}};
  const std::vector<Json> want = log_of(configuration(changes), "cpu");
  for (const c10::Device device : other_devices()) {
    expect_close(log_of(configuration(changes, device), "there"), want, 2e-2, "observed");
    EXPECT_EQ(read_summary(scratch_ / "there")->at("device"), device.str());
    EXPECT_EQ(read_summary(scratch_ / "there")->at("head_singular_values").size(), 16u);
  }
}

TEST_F(DeviceRuns, AreAskedTasks) {
  Json requests = {{"format", "lmhead-requests"}, {"version", 1}, {"tokenizer_hash", "bytes"}};
  const Json document = {
      {"requests", {{{1, 8, 43}, {26}}, {{1, 8, 43}, {5, 7}}}}, {"gold", 0}, {"characters", {1, 2}}, {"gold_bytes", 2}};
  requests["tasks"] = {{{"name", "next"}, {"documents", {document}}}};
  write_file_atomic(scratch_ / "requests.json", requests.dump());
  const Json changes = {
      {"observe", {{"downstream", {{"every", 10}, {"requests", (scratch_ / "requests.json").string()}}}}}};
  const std::vector<Json> want = log_of(configuration(changes), "cpu");
  ASSERT_TRUE(want.at(9).contains("downstream"));
  for (const c10::Device device : other_devices())
    expect_close(log_of(configuration(changes, device), "there"), want, 2e-3, "asked");
}

TEST_F(DeviceRuns, GoOnWhereTheyStopped) {
  const Json rule = {{"optimizer", {{"type", "muon"}}},
                     {"head_gradient", {{"hidden", {{"rule", "whitened"}, {"refresh_every", 4}}}}}};
  for (const c10::Device device : other_devices()) {
    const std::vector<Json> want = log_of(configuration(rule, device), "unbroken");
    log_of(configuration(rule, device), "broken", 11);
    EXPECT_EQ(log_of(configuration(rule, device), "broken"), want);
    EXPECT_TRUE(is_finished(scratch_ / "broken", complete_configuration(configuration(rule))));
  }
}

TEST_F(DeviceRuns, GoFromDeviceToDevice) {
  const std::vector<Json> want = log_of(configuration(), "unbroken");
  for (const c10::Device device : other_devices()) {
    log_of(configuration(), "to " + device.str(), 9);
    expect_close(log_of(configuration(Json::object(), device), "to " + device.str()), want, 2e-3, "to the device");
    log_of(configuration(Json::object(), device), "from " + device.str(), 9);
    expect_close(log_of(configuration(), "from " + device.str()), want, 2e-3, "from the device");
  }
}

/// The files of a checkpoint, once it has been read on one device and written from there, are the files that they were.
TEST_F(DeviceRuns, KeepEveryBitOfACheckpointFromDeviceToDevice) {
  const c10::Device here(c10::DeviceType::CPU);
  const Json all[] = {
      group("lm_head.weight", {{"type", "adamw"}, {"amsgrad", true}}),
      {{"optimizer", {{"type", "muon"}}}},
      {{"optimizer", {{"type", "sgd"}, {"learning_rate", 0.1}}}},
      {{"training", {{"precision", "float16"}}}},
  };
  for (const Json& changes : all)
    for (const c10::Device device : other_devices())
      for (const auto& [first, second] : {std::pair(here, device), std::pair(device, here)}) {
        const std::string name = changes.dump() + " from " + first.str();
        const std::filesystem::path start = scratch_ / name;
        log_of(configuration(changes, first), name, 9);
        std::filesystem::path from = checkpoints_of(start);
        for (const c10::Device to : {second, first}) {
          const ScratchFolder other;
          const Trainer trainer = make_trainer(configuration(changes, to), other / "run");
          const ParameterList parameters = trainer.model().parameters();
          const auto optimizer =
              make_optimizer(read_options<TrainConfiguration>(configuration(changes, to)).optimizer, parameters);
          const TrainingState state = CheckpointFolder(from, 1).load(9, stored_parameters(parameters), *optimizer);
          for (const ParameterPtr& parameter : parameters) EXPECT_EQ(parameter->value.device(), to) << parameter->name;
          const std::filesystem::path written = start / ("on " + to.str());
          CheckpointFolder(written, 1).save(state, named_tensors(parameters), optimizer->state());
          for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"})
            EXPECT_EQ(sha256_of(CheckpointFolder(written, 1).path_of(9) / file),
                      sha256_of(CheckpointFolder(checkpoints_of(start), 1).path_of(9) / file))
                << name << " to " << to << ": " << file;
          from = written;
        }
      }
}

TEST_F(DeviceRuns, WaitForTheDeviceOnceAStep) {
  const std::pair<std::string, Json> all[] = {
      {"adamw", Json::object()},
      {"in parts", {{"data", {{"micro_batches", 2}}}}},
      {"sgd", {{"optimizer", {{"type", "sgd"}}}}},
      {"muon", {{"optimizer", {{"type", "muon"}}}}},
      {"clipped", {{"training", {{"clip_norm", 0.05}}}}},
      {"bfloat16", {{"training", {{"precision", "bfloat16"}}}}},
      {"float16", {{"training", {{"precision", "float16"}}}}},
      {"loss seldom read", {{"training", {{"log_every", 10}}}}},
      {"computed again", {{"training", {{"checkpoint_activations", true}}}}},
  };
  for (const auto& [name, changes] : all) {
    std::int64_t waits[2];
    for (const bool longer : {false, true}) {
      Json json = configuration(changes, stand_in_device(1));
      json["training"].update({{"steps", longer ? 24 : 4}, {"validate_every", 0}, {"checkpoint_every", 0}});
      const std::int64_t before = stand_in_waits();
      log_of(json, name + (longer ? " longer" : " shorter"));
      waits[longer] = stand_in_waits() - before;
    }
    EXPECT_EQ(waits[1] - waits[0], 20) << name;
  }
}

TEST_F(DeviceRuns, HoldLessWhereActivationsAreComputedAgain) {
  std::int64_t bytes[2];
  for (const bool again : {false, true}) {
    const Json changes = {
        {"model", {{"num_hidden_layers", 6}}},
        {"data", {{"batch_size", 16}}},
        {"training",
         {{"steps", 3}, {"validate_every", 0}, {"checkpoint_every", 0}, {"checkpoint_activations", again}}}};
    const Json json = configuration(changes, stand_in_device(1));
    bytes[again] = most_bytes_on_stand_in([&] { log_of(json, again ? "again" : "kept"); });
  }
  EXPECT_LT(double(bytes[1]), 0.5 * double(bytes[0])) << bytes[0] << " bytes, and " << bytes[1];
  EXPECT_EQ(figures_of(scratch_ / "again"), figures_of(scratch_ / "kept"));
}

/// Within a fifth where the loss is of one linear map. Other heads' own compositions hold more, up to twice as much:
/// what they make of logits is not counted.
TEST_F(DeviceRuns, TakeTheMemoryThatIsPlanned) {
  const std::set<std::string> linear = {"linear",    "low_rank",   "expanded",    "residual_expansion",
                                        "candidate", "normalized", "token_skip",  "multi_facet",
                                        "two_level", "adaptive",   "depth_tapped"};
  for (const HeadKind& kind : head_kinds())
    for (const bool again : {false, true}) {
      const Json changes = {
          {"head", {{"type", kind.type}}},
          {"model", {{"vocab_size", 1000}, {"hidden_size", 64}, {"num_hidden_layers", 6}, {"intermediate_size", 172}}},
          {"data", {{"batch_size", 16}}},
          {"training",
           {{"steps", 2}, {"validate_every", 0}, {"checkpoint_every", 0}, {"checkpoint_activations", again}}}};
      const Json json = configuration(changes, stand_in_device(1));
      const std::string name = kind.type + std::string(again ? " again" : "");
      if (again && name != "linear again" && name != "low_rank again") continue;
      const auto held = double(most_bytes_on_stand_in([&] { log_of(json, name); }));
      const double planned = estimate_memory(read_options<TrainConfiguration>(json), 1000).peak;
      EXPECT_GT(held / planned, 0.8) << name;
      EXPECT_LT(held / planned, linear.contains(kind.type) ? 1.2 : 2) << name;
    }
}

TEST_F(DeviceRuns, KeepTheirCheckpointWhereMemoryIsOut) {
  const Json json = configuration(Json::object(), stand_in_device(1));
  log_of(json, "unbroken");
  log_of(json, "run", 8);
  {
    const StandInMemory little(40000);
    try {
      log_of(json, "run");
      FAIL() << "there is memory";
    } catch (const std::exception& error) {
      EXPECT_TRUE(device_failure(error).value_or("").starts_with("[device] the device's memory must hold"))
          << error.what();
    }
  }
  EXPECT_EQ(log_of(json, "run"), figures_of(scratch_ / "unbroken"));
}

TEST_F(DeviceRuns, KeepTheirCheckpointWhereTheDeviceFails) {
  const Json json = configuration(Json::object(), stand_in_device());
  log_of(json, "run", 8);
  {
    const StandInWithout without("aten::_fused_adamw_");
    try {
      log_of(json, "run");
      FAIL() << "it has the operator";
    } catch (const std::exception& error) {
      EXPECT_TRUE(device_failure(error).value_or("").find("aten::_fused_adamw_") != std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(log_of(json, "run").size(), 20u);
}

}  // namespace
}  // namespace lmhead
