#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

TEST(Quality, EqualsTheDefinitions) {
  oracle::Problem problem = oracle::problem(60, 7, 30);
  problem.map.bias = oracle::normal("bias", {30});
  problem.map.transform.softcap = 3;
  DiagnosticSet set(problem.map, {"quality"});
  set.update({problem.hidden.narrow(0, 0, 20), problem.targets.narrow(0, 0, 20), {}, {}, 31.0});
  set.update({problem.hidden.narrow(0, 20, 40), problem.targets.narrow(0, 20, 40), {}, {}, 59.0});
  const Json result = set.result()["quality"];
  const double loss = plain_linear_cross_entropy(problem.hidden, problem.map, problem.targets).item<double>();
  const at::Tensor best = linear_logits(problem.hidden, problem.map).argmax(1);
  EXPECT_NEAR(result["loss"].get<double>(), loss, 1e-12);
  EXPECT_NEAR(result["perplexity"].get<double>(), std::exp(loss), 1e-9);
  EXPECT_NEAR(result["bits_per_byte"].get<double>(), loss * 60 / std::log(2) / 90, 1e-12);
  EXPECT_EQ(result["top1_accuracy"].get<double>(), best.eq(problem.targets).sum().item<double>() / 60);
}

TEST(Quality, HasNoBitsPerByteWhereABatchCameWithoutBytes) {
  const oracle::Problem problem = oracle::problem(10, 3, 8);
  DiagnosticSet set(problem.map, {"quality"});
  set.update({problem.hidden, problem.targets, {}, {}, 31.0});
  set.update({problem.hidden, problem.targets, {}, {}, {}});
  EXPECT_TRUE(set.result()["quality"]["bits_per_byte"].is_null());
}

}  // namespace
}  // namespace lmhead
