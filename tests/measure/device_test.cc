// A model on any device is measured, asked and sampled as on the CPU.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/evaluate/scorer.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/measure/measurement.h"
#include "lmhead/models/generation.h"
#include "lmhead/models/safetensors.h"
#include "lmhead/run/run.h"
#include "tests/support/devices.h"
#include "tests/support/json_agreement.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

using namespace test;
const c10::Device kHere(c10::DeviceType::CPU);

/// A trained model with a head.
class DeviceModels : public testing::TestWithParam<const char*> {
 protected:
  DeviceModels() {
    write_dataset(scratch_ / "data");
    Json json = tiny_configuration(scratch_ / "data");
    json["training"]["steps"] = 12;
    json["head"]["type"] = GetParam();
    run_training(json, run(), {});
  }
  std::filesystem::path run() const { return scratch_ / "run"; }
  LoadedModel load(c10::Device device, at::ScalarType type = at::kFloat) const {
    return load_model(find_models(run(), CheckpointChoice::kNewest).front(), type, device);
  }
  const ScratchFolder scratch_;
};

TEST_P(DeviceModels, AreMeasured) {
  const auto measured = [&](c10::Device device) {
    const LoadedModel model = load(device);
    const MeasuredTokens tokens =
        open_measured_tokens(scratch_ / "data" / "validation.bin", model.head->vocab_size(), std::nullopt);
    MeasurementOptions options{.sequence_length = 16, .max_tokens = 200};
    for (const DiagnosticKind& kind : diagnostic_kinds()) options.diagnostics.push_back(kind.name);
    options.diagnostic.local_retention.tokens = 5;
    return measure_model(model, &tokens, options);
  };
  const Json want = measured(kHere);
  for (const c10::Device device : other_devices()) expect_figures_near(measured(device), want, 1e-6, 1e-3, GetParam());
}

TEST_P(DeviceModels, AreAsked) {
  std::vector<ScoreRequest> requests;
  for (std::int64_t id = 0; id < 6; ++id) requests.push_back({{1, 8, 43, id}, {id, 5, 7}});
  const std::vector<Score> want = Scorer(load(kHere)).score(requests);
  for (const c10::Device device : other_devices()) {
    const std::vector<Score> got = Scorer(load(device)).score(requests);
    for (std::size_t index = 0; index < want.size(); ++index) {
      EXPECT_NEAR(got[index].log_probability, want[index].log_probability, 1e-4);
      EXPECT_EQ(got[index].is_greedy, want[index].is_greedy);
    }
    EXPECT_NEAR(Scorer(load(device, at::kBFloat16)).score(requests)[0].log_probability, want[0].log_probability, 0.2);
  }
}

TEST_P(DeviceModels, AreSampled) {
  const auto sampled = [&](c10::Device device) {
    const LoadedModel model = load(device);
    return generate(*model.decoder, *model.head, {1, 8, 43}, {.sampling = {.temperature = 0.8}, .max_new_tokens = 20});
  };
  for (const c10::Device device : other_devices()) EXPECT_EQ(sampled(device), sampled(kHere));
}

INSTANTIATE_TEST_SUITE_P(Heads, DeviceModels, testing::Values("linear", "mixture_of_softmaxes", "copy"));

TEST(DeviceFeatures, AreMeasured) {
  const ScratchFolder scratch;
  const at::Tensor numbers = at::arange(40 * 6, at::kFloat).sin();
  write_safetensors(scratch / "features.safetensors",
                    {{"hidden", numbers.view({40, 6})},
                     {"weight", (numbers * 7).cos().view({40, 6}).slice(0, 0, 30).contiguous()},
                     {"bias", numbers.slice(0, 0, 30).contiguous()},
                     {"targets", at::arange(40, at::kLong).remainder(30)}});
  const auto measured = [&](c10::Device device) {
    return measure_model(load_model(scratch / "features.safetensors", at::kFloat, device), nullptr, {});
  };
  const Json want = measured(kHere);
  for (const c10::Device device : other_devices()) expect_figures_near(measured(device), want, 1e-6, 1e-3, "features");
}

}  // namespace
}  // namespace lmhead
