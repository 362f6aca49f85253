// Blocks that are read when a pass comes to them give the bits of those that are in memory, and files that change under
// way are noticed.
#include "lmhead/models/checkpoint_blocks.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;
constexpr std::int64_t kLayers = 3, kVocab = 11, kWidth = 8, kInner = 12;

class LayerwiseModel : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("lmhead_blocks_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    configure(false);
    add("model.embed_tokens.weight", {kVocab, kWidth});
    add("model.norm.weight", {kWidth});
    add("lm_head.weight", {kVocab, kWidth});
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      for (const char* name : {"input_layernorm.weight", "post_attention_layernorm.weight"})
        add(prefix + name, {kWidth});
      for (const char* name : {"q_proj.weight", "o_proj.weight"}) add(prefix + "self_attn." + name, {kWidth, kWidth});
      for (const char* name : {"k_proj.weight", "v_proj.weight"}) add(prefix + "self_attn." + name, {4, kWidth});
      for (const char* name : {"gate_proj.weight", "up_proj.weight"}) add(prefix + "mlp." + name, {kInner, kWidth});
      add(prefix + "mlp.down_proj.weight", {kWidth, kInner});
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  void add(const std::string& name, std::vector<std::int64_t> shape) {
    std::int64_t numbers = 1;
    for (const auto size : shape) numbers *= size;
    const double phase = double(tensors_.size());
    tensors_[name] = (at::linspace(phase, phase + 3 * double(numbers), numbers)).sin().view(shape);
  }
  void configure(bool tied) const {
    write_file_atomic(folder_ / "config.json",
                      R"({"model_type":"llama","vocab_size":11,"hidden_size":8,"intermediate_size":12,)"
                      R"("num_hidden_layers":3,"num_attention_heads":2,"num_key_value_heads":1,)"
                      R"("tie_word_embeddings":)" +
                          std::string(tied ? "true}" : "false}"));
  }
  void write() const { write_safetensors(file(), {tensors_.begin(), tensors_.end()}); }
  fs::path file() const { return folder_ / "model.safetensors"; }
  static std::vector<at::Tensor> batches() {
    const at::Tensor ids = at::arange(30).remainder(kVocab);
    return {ids.narrow(0, 0, 12).view({3, 4}), ids.narrow(0, 12, 7).view({1, 7}), ids.narrow(0, 19, 2).view({2, 1})};
  }

  fs::path folder_;
  Tensors tensors_;
};

TEST_F(LayerwiseModel, HasTheBitsOfOneInMemory) {
  at::NoGradGuard no_grad;
  for (const bool tied : {false, true})
    for (const at::ScalarType stored : {at::kFloat, at::kBFloat16}) {
      configure(tied);
      if (tied) tensors_.erase("lm_head.weight");
      else add("lm_head.weight", {kVocab, kWidth});
      for (auto& [name, tensor] : tensors_) tensor = tensor.to(stored);
      write();
      const LoadedModel whole = load_pretrained(folder_), read = open_pretrained(folder_);
      EXPECT_TRUE(at::equal(whole.head->linear_map()->weight, read.head->linear_map()->weight));
      const auto all = read.decoder->forward_batches(batches(), {.kept_layers = {2, 0}});
      for (std::size_t index = 0; index < all.size(); ++index) {
        std::vector<at::Tensor> layers;
        const at::Tensor want = whole.decoder->forward(batches()[index], &layers);
        EXPECT_TRUE(at::equal(all[index].hidden, want));
        EXPECT_TRUE(at::equal(read.decoder->forward(batches()[index]), want));
        EXPECT_TRUE(at::equal(whole.decoder->forward_batches({batches()[index]}, {})[0].hidden, want));
        ASSERT_EQ(all[index].layers.size(), 2U);
        EXPECT_TRUE(at::equal(all[index].layers[0], layers[2]));
        EXPECT_TRUE(at::equal(all[index].layers[1], layers[0]));
      }
    }
}

TEST_F(LayerwiseModel, TakesEveryBatchThroughABlockBeforeTheNext) {
  at::NoGradGuard no_grad;
  write();
  const LoadedModel model = open_pretrained(folder_);
  const auto in_memory = [&](std::size_t layer) {
    for (const ParameterPtr& parameter : model.decoder->block_parameters(layer))
      if (parameter->value.is_meta() || parameter->working.is_meta()) return false;
    return true;
  };
  std::vector<std::pair<std::size_t, std::size_t>> seen;
  model.decoder->forward_batches(batches(), {.after_batch = [&](std::size_t layer, std::size_t batch) {
                                   seen.emplace_back(layer, batch);
                                   for (std::size_t other = 0; other < kLayers; ++other)
                                     EXPECT_EQ(in_memory(other), other == layer);
                                 }});
  std::vector<std::pair<std::size_t, std::size_t>> expected;
  for (std::size_t layer = 0; layer < kLayers; ++layer)
    for (std::size_t batch = 0; batch < batches().size(); ++batch) expected.emplace_back(layer, batch);
  EXPECT_EQ(seen, expected);
  for (std::size_t layer = 0; layer < kLayers; ++layer) EXPECT_FALSE(in_memory(layer));
  std::uint64_t stored = 0;
  for (const auto& [name, tensor] : tensors_)
    if (name.starts_with("model.layers.")) stored += tensor.nbytes();
  EXPECT_GE(model.decoder->block_source()->bytes_read(), stored);
}

TEST_F(LayerwiseModel, GoesOnFromAnyLayer) {
  at::NoGradGuard no_grad;
  write();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const LoadedModel model = open_pretrained(folder_, type);
    std::vector<std::vector<at::Tensor>> after;
    const auto want = model.decoder->forward_batches(
        batches(), {.after_layer = [&](std::size_t layers, const std::vector<at::Tensor>& features) {
          EXPECT_EQ(layers, after.size() + 1);
          after.push_back(features);
        }});
    ASSERT_EQ(after.size(), std::size_t(kLayers));
    for (std::size_t layers = 1; layers <= kLayers; ++layers) {
      const auto got =
          model.decoder->forward_batches(batches(), {.layers_done = layers, .features = after[layers - 1]});
      for (std::size_t batch = 0; batch < got.size(); ++batch)
        EXPECT_TRUE(at::equal(got[batch].hidden, want[batch].hidden));
    }
    EXPECT_THROW(model.decoder->forward_batches(batches(), {.layers_done = 1}), Error);
  }
}

TEST_F(LayerwiseModel, InBfloat16HasProductsAloneInThat) {
  at::NoGradGuard no_grad;
  write();
  const LoadedModel narrow = open_pretrained(folder_, at::kBFloat16), wide = open_pretrained(folder_);
  EXPECT_TRUE(at::equal(narrow.head->linear_map()->weight, wide.head->linear_map()->weight));
  const at::Tensor got = narrow.decoder->forward_batches({batches()[0]}, {})[0].hidden,
                   want = wide.decoder->forward_batches({batches()[0]}, {})[0].hidden;
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_FALSE(at::equal(got, got.to(at::kBFloat16).to(at::kFloat)));  // the final norm rounds to nothing narrower
  EXPECT_FALSE(at::equal(got, want));
  // Four products a block, each within a few roundings of 2^-9 of its inputs.
  EXPECT_LT((got - want).abs().max().item<double>(), 0.1 * want.abs().max().item<double>());
}

TEST_F(LayerwiseModel, ChecksAllThatCanBeKnownBeforeItReads) {
  const auto error = [&] {
    write();
    try {
      open_pretrained(folder_);
    } catch (const Error& failure) {
      return std::string(failure.what());
    }
    return std::string("none");
  };
  const std::string deep = "model.layers.2.self_attn.k_proj.weight";
  const at::Tensor kept = tensors_[deep];
  tensors_.erase(deep);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, deep, error());
  tensors_[deep] = kept.t().contiguous();
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "must have shape [4, 8], got [8, 4]", error());
  tensors_[deep] = kept;
  add("model.layers.3.self_attn.k_proj.weight", {4, 8});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "which has none", error());
}

TEST_F(LayerwiseModel, IsDescribedBeforeItsNumbersAreRead) {
  tensors_["lm_head.weight"] = at::full({kVocab, kWidth}, std::numeric_limits<float>::quiet_NaN());
  write();
  bool is_described = false;
  const auto describe = [&](const LoadedModel& model) {
    is_described = model.decoder->block_parameters(0).size() > 0 && model.decoder->parameters()[0]->value.is_meta() &&
                   !model.head && model.family == "llama";
    return std::optional<fs::path>();
  };
  EXPECT_THROW(open_pretrained(folder_, at::kFloat, c10::Device(c10::DeviceType::CPU), describe), Error);
  EXPECT_TRUE(is_described);
}

TEST_F(LayerwiseModel, MayHaveItsHeadOnDisk) {
  for (const bool tied : {false, true}) {
    configure(tied);
    if (tied) tensors_.erase("lm_head.weight");
    write();
    const LoadedModel in_memory = open_pretrained(folder_);
    const LoadedModel on_disk = open_pretrained(folder_, at::kFloat, c10::Device(c10::DeviceType::CPU),
                                                [&](const LoadedModel&) { return std::optional(folder_); });
    EXPECT_TRUE(at::equal(on_disk.head->linear_map()->weight, in_memory.head->linear_map()->weight));
    EXPECT_TRUE(at::equal(on_disk.decoder->forward(batches()[0]), in_memory.decoder->forward(batches()[0])));
    for (const auto& entry : fs::directory_iterator(folder_))
      EXPECT_FALSE(entry.path().filename().string().starts_with("lmhead-")) << "a scratch file has no name";
  }
}

TEST_F(LayerwiseModel, NoticesNumbersThatAreNotFiniteWhenItReadsThem) {
  tensors_["model.layers.1.mlp.up_proj.weight"][3][2] = std::numeric_limits<float>::infinity();
  tensors_["model.embed_tokens.weight"][7][0] = std::numeric_limits<float>::quiet_NaN();
  write();
  const LoadedModel model = open_pretrained(folder_);
  const auto error = [&](const at::Tensor& tokens) {
    try {
      model.decoder->forward(tokens);
    } catch (const Error& failure) {
      return std::string(failure.what());
    }
    return std::string("none");
  };
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "embed_tokens.weight\" must be finite", error(at::arange(9).view({1, 9})));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "layers.1.mlp.up_proj.weight\" must be finite",
                      error(at::arange(5).view({1, 5})));
  for (const ParameterPtr& parameter : model.decoder->block_parameters(1)) EXPECT_TRUE(parameter->value.is_meta());
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "tokens must lie in [0, 11)", error(at::full({1, 2}, 11, at::kLong)));
}

TEST_F(LayerwiseModel, NoticesAFileThatIsNoLongerTheOneThatWasOpened) {
  const auto error = [&](const auto& change) {
    write();
    const LoadedModel model = open_pretrained(folder_);
    try {
      model.decoder->forward_batches(batches(), {.after_batch = [&](std::size_t layer, std::size_t batch) {
                                       if (layer == 0 && batch == 0) change();
                                     }});
    } catch (const Error& failure) {
      return std::string(failure.what());
    }
    return std::string("none");
  };
  EXPECT_EQ(error([] {}), "none");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "must stay as it was when it was opened, got none of that name",
                      error([&] { fs::remove(file()); }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "got another file in its place", error([&] { write(); }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "got other content", error([&] {
                        std::fstream out(file(), std::ios::in | std::ios::out | std::ios::binary);
                        out.seekp(-1, std::ios::end);
                        out.put('\x11');
                        out.close();
                        fs::last_write_time(file(), fs::file_time_type::clock::now() + std::chrono::seconds(5));
                      }));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "bytes that it had when it was opened",
                      error([&] { fs::resize_file(file(), fs::file_size(file()) / 2); }));
}

}  // namespace
}  // namespace lmhead
