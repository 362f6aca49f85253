// Diagnostics take tensors where they are, the spectrum that is sketched too.
#include "lmhead/base/device.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"
#include "tests/support/devices.h"
#include "tests/support/json_agreement.h"

namespace lmhead {
namespace {

TEST(Devices, EveryDiagnosticTakesTensorsWhereTheyAre) {
  const oracle::Problem problem = oracle::problem(60, 6, 40);
  const at::Tensor rows = at::arange(60, at::kLong), documents = rows.floor_divide(7),
                   counts = at::arange(40, 0, -1, at::kLong);
  for (const bool is_sketched : {false, true}) {
    DiagnosticOptions options;
    if (is_sketched) options.gradient_spectrum.exact_tokens = 1, options.gradient_spectrum.sketch_columns = 20;
    const auto figures_on = [&](c10::Device device) {
      std::vector<std::string> names;
      for (const DiagnosticKind& kind : diagnostic_kinds()) names.push_back(kind.name);
      DiagnosticSet set({on_device(problem.map.weight, device), {}}, names, options, counts);
      set.update({on_device(problem.hidden, device), on_device(problem.targets, device), on_device(documents, device),
                  on_device(rows.remainder(7), device), 100.0});
      return set.result();
    };
    const Json want = figures_on(c10::Device(c10::DeviceType::CPU));
    for (const c10::Device device : test::other_devices())
      test::expect_figures_near(figures_on(device), want, 1e-7, 1e-7, "");
  }
}

}  // namespace
}  // namespace lmhead
