// What happens to checkpoints that are not quite what their configuration says.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

class Checkpoints : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("lmhead_checkpoint_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    configure("\"tie_word_embeddings\":false");
    std::int64_t count = 0;
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
      std::int64_t numbers = 1;
      for (const auto size : shape) numbers *= size;
      tensors_[name] = at::linspace(-1, 1 + 0.1 * double(++count), numbers).view(shape);
    };
    add("model.embed_tokens.weight", {11, 8});
    add("model.norm.weight", {8});
    add("lm_head.weight", {11, 8});
    const std::string layer = "model.layers.0.";
    for (const char* name : {"input_layernorm.weight", "post_attention_layernorm.weight"}) add(layer + name, {8});
    for (const char* name : {"self_attn.q_proj.weight", "self_attn.o_proj.weight"}) add(layer + name, {8, 8});
    for (const char* name : {"self_attn.k_proj.weight", "self_attn.v_proj.weight"}) add(layer + name, {4, 8});
    for (const char* name : {"mlp.gate_proj.weight", "mlp.up_proj.weight"}) add(layer + name, {12, 8});
    add(layer + "mlp.down_proj.weight", {8, 12});
  }
  void TearDown() override { fs::remove_all(folder_); }

  void configure(const std::string& members) {
    write_file_atomic(folder_ / "config.json",
                      R"({"model_type":"llama","vocab_size":11,"hidden_size":8,"intermediate_size":12,)"
                      R"("num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,)" +
                          members + "}");
  }
  LoadedModel load() const {
    write_safetensors(folder_ / "model.safetensors", {tensors_.begin(), tensors_.end()});
    return load_pretrained(folder_);
  }
  at::Tensor logits() const {
    at::NoGradGuard no_grad;
    const LoadedModel model = load();
    return model.head->logits({model.decoder->forward(at::arange(10).view({2, 5}))});
  }
  std::string error() const {
    try {
      load();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path folder_;
  Tensors tensors_;
};

#define EXPECT_ERROR(part) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, error())

TEST_F(Checkpoints, WhatIsMissingIsNamed) {
  tensors_.erase("model.layers.0.self_attn.k_proj.weight");
  EXPECT_ERROR("tensor \"model.layers.0.self_attn.k_proj.weight\" must be there, got none of that name");
}

TEST_F(Checkpoints, AMissingHeadIsNamed) {
  tensors_.erase("lm_head.weight");
  EXPECT_ERROR("tensor \"lm_head.weight\" must be there");
}

TEST_F(Checkpoints, WhatIsMisshapenIsNamed) {
  tensors_["model.layers.0.mlp.up_proj.weight"] = at::zeros({8, 12});
  EXPECT_ERROR("tensor \"model.layers.0.mlp.up_proj.weight\" must have shape [12, 8], got [8, 12]");
  tensors_["model.layers.0.mlp.up_proj.weight"] = at::zeros({12, 8}, at::kInt);
  EXPECT_ERROR("must be F32, F16, BF16 or F64, got I32");
}

TEST_F(Checkpoints, WhatIsNotFiniteIsNamed) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
    tensors_["model.layers.0.mlp.up_proj.weight"][3][4] = value;
    EXPECT_ERROR("tensor \"model.layers.0.mlp.up_proj.weight\" must be finite, got NaN or infinity");
  }
}

TEST_F(Checkpoints, HarmlessBuffersAreIgnoredAndOthersAreNot) {
  const at::Tensor before = logits();
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::zeros({2});
  EXPECT_TRUE(at::equal(logits(), before));
  tensors_["model.layers.0.self_attn.q_proj.bias"] = at::zeros({8});
  EXPECT_ERROR("every tensor must have a place in the model, got \"model.layers.0.self_attn.q_proj.bias\"");
}

TEST_F(Checkpoints, ATiedMatrixMayStandUnderEitherNameOrBoth) {
  configure("\"tie_word_embeddings\":true");
  const at::Tensor matrix = tensors_["model.embed_tokens.weight"];
  EXPECT_ERROR("tensor \"lm_head.weight\" must equal the embedding where tie_word_embeddings is true");
  tensors_["lm_head.weight"] = matrix;
  const at::Tensor both = logits();
  tensors_.erase("lm_head.weight");
  EXPECT_TRUE(at::equal(logits(), both));
  tensors_.erase("model.embed_tokens.weight");
  tensors_["lm_head.weight"] = matrix;
  EXPECT_TRUE(at::equal(logits(), both));
}

TEST_F(Checkpoints, ABodySavedAloneHasNoPrefix) {
  configure("\"tie_word_embeddings\":true");
  tensors_.erase("lm_head.weight");
  const at::Tensor before = logits();
  Tensors bare;
  for (const auto& [name, tensor] : tensors_) bare[name.substr(6)] = tensor;
  tensors_ = bare;
  EXPECT_TRUE(at::equal(logits(), before));
}

TEST_F(Checkpoints, SixteenBitNumbersAreWidened) {
  for (auto& [name, tensor] : tensors_) tensor = tensor.to(at::kBFloat16).to(at::kFloat);
  const at::Tensor before = logits();
  for (auto& [name, tensor] : tensors_) tensor = tensor.to(at::kBFloat16);
  EXPECT_TRUE(at::equal(logits(), before));
  EXPECT_EQ(load().head->linear_map()->weight.scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace lmhead
