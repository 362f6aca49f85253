// Exports read back as pretrained models, and what is refused.
#include "lmhead/models/hf_export.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/models/hf_classes.h"
#include "lmhead/models/pretrained.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kVocabSize = 13;

class HfExport : public testing::Test {
 protected:
  HfExport() : folder_(fs::path(testing::TempDir()) / ("hf_export_" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
  }
  ~HfExport() override { fs::remove_all(folder_); }
  fs::path folder_;
};

CausalModel random_model(const DecoderOptions& options, const HeadSpecification& head = {}) {
  CausalModel model(options, head, kVocabSize, 0);
  randomise(model.parameters());
  return model;
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool is_tied(const LoadedModel& model) {
  return model.head->linear_map()->weight.is_alias_of(model.decoder->embedding()->value);
}

TEST_F(HfExport, AnExportedModelReadBackIsTheSame) {
  const at::Tensor tokens = draw_ids({2, 9}, kVocabSize);
  at::NoGradGuard no_grad;
  int exported = 0;
  for (const Variant& variant : variants()) {
    SCOPED_TRACE(variant.name);
    const CausalModel model = random_model(variant.options);
    const LinearMap map = *model.head->linear_map();
    const bool expected = variant.name == "llama" || variant.name == "gpt2" || variant.name == "qwen3";
    if (!expected) {
      EXPECT_THROW(export_to_hf(model.decoder, map, folder_), Error);
      continue;
    }
    export_to_hf(model.decoder, map, folder_);  // over the one before
    const LoadedModel back = load_pretrained(folder_);
    EXPECT_TRUE(back.decoder->specification().layers == model.decoder.specification().layers);
    EXPECT_EQ(is_tied(back), variant.options.tie_word_embeddings);
    const at::Tensor want = linear_logits(model.decoder.forward(tokens), map);
    EXPECT_LE(largest(back.head->logits({back.decoder->forward(tokens)}) - want), 1e-6 * largest(want));
    ++exported;
  }
  EXPECT_EQ(exported, 3);
}

TEST_F(HfExport, AScaleIsMultipliedIntoAMatrixThatIsNoLongerTied) {
  DecoderOptions options = tiny_options();
  options.tie_word_embeddings = true;
  const CausalModel model = random_model(options);
  LinearMap map = *model.head->linear_map();
  map.transform.scale = 0.25;
  export_to_hf(model.decoder, map, folder_);
  const LoadedModel back = load_pretrained(folder_);
  EXPECT_FALSE(is_tied(back));
  EXPECT_TRUE(back.head->linear_map()->weight.equal(map.weight * 0.25));
  EXPECT_TRUE(back.decoder->embedding()->value.equal(map.weight));
}

TEST_F(HfExport, HeadsThatNoClassHasAreRefusedByName) {
  const CausalModel model = random_model(tiny_options());
  LinearMap map = *model.head->linear_map();
  map.transform.softcap = 30;
  EXPECT_NE(error_of([&] { export_to_hf(model.decoder, map, folder_); }).find("head.logit_softcap"), std::string::npos);
  map.transform.softcap = 0;
  map.bias = map.weight.select(1, 0);
  EXPECT_NE(error_of([&] { export_to_hf(model.decoder, map, folder_); }).find("head.bias"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_));
}

TEST(HfClassOf, NamesTheOptionsThatKeepAModelFromTheNearestClass) {
  DecoderOptions options = tiny_options();
  options.norm_position = "post";
  const std::string error = error_of([&] { hf_class_of(options.specification(kVocabSize)); });
  EXPECT_NE(error.find("LlamaForCausalLM, model.norm_position must be \"pre\";"), std::string::npos) << error;
}

TEST_F(HfExport, WhatIsNoExportIsLeftAlone) {
  const CausalModel model = random_model(tiny_options());
  fs::create_directories(folder_);
  write_file_atomic(folder_ / "model.safetensors", "someone else's");
  EXPECT_THROW(export_to_hf(model.decoder, *model.head->linear_map(), folder_), Error);
  EXPECT_EQ(read_file(folder_ / "model.safetensors"), "someone else's");
}

}  // namespace
}  // namespace lmhead
