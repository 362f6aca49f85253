// A run opened again as a model; tests/python/test_export_sample.py compares its logits with those of transformers.
#include "lmhead/run/trained_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "lmhead/base/error.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

TEST(TrainedModel, AFolderThatIsNoRunIsRefused) {
  const std::filesystem::path folder = testing::TempDir();
  EXPECT_FALSE(is_trained_model(folder));
  EXPECT_THROW(open_trained_model(folder), Error);
}

// The run's folder in LMHEAD_RUN, a safetensors file of `tokens` and `logits` at LMHEAD_LOGITS.
TEST(TrainedModel, WritesTheLogitsOfTheRunGiven) {
  const char* run = std::getenv("LMHEAD_RUN");
  if (!run) GTEST_SKIP() << "LMHEAD_RUN is not set";
  at::NoGradGuard no_grad;
  const LoadedModel trained = open_trained_model(run);
  const std::int64_t vocab_size = trained.head->vocab_size();
  const at::Tensor tokens = (at::arange(40, at::kLong) * 7).remainder(vocab_size).view({2, 20});
  const at::Tensor logits = trained.head->logits({trained.decoder->forward(tokens)});
  write_safetensors(std::getenv("LMHEAD_LOGITS"), {{"tokens", tokens}, {"logits", logits}});
}

}  // namespace
}  // namespace lmhead
