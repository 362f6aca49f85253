#include "lmhead/models/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/data/data_fixtures.h"
#include "tests/models/model_fixtures.h"
#include "tests/models/reference_decoder.h"

namespace lmhead {
namespace {

constexpr std::int64_t kVocabSize = 13;

Decoder random_decoder(const DecoderOptions& options) {
  Decoder decoder = make_decoder(options, kVocabSize, 0);
  randomise(decoder.parameters());
  return decoder;
}

ReferenceDecoder::Values values_of(const ParameterList& parameters) {
  ReferenceDecoder::Values values;
  for (const auto& [name, tensor] : named_tensors(parameters)) values[name] = tensor.to(at::kDouble);
  return values;
}

TEST(Decoder, EveryVariantIsTheReferenceInFloat64) {
  const at::Tensor tokens = draw_ids({3, 7}, kVocabSize);
  for (const Variant& variant : variants()) {
    SCOPED_TRACE(variant.name);
    const Decoder decoder = random_decoder(variant.options);
    const ReferenceDecoder reference(variant.options, values_of(decoder.parameters()));
    std::vector<at::Tensor> layers, want_layers;
    const at::Tensor got = decoder.forward(tokens, &layers), want = reference.features(tokens, &want_layers);
    EXPECT_EQ(got.sizes(), (at::IntArrayRef{21, 16}));
    EXPECT_EQ(got.scalar_type(), at::kFloat);
    EXPECT_LE(largest(got.to(at::kDouble) - want), 2e-5 * (1 + largest(want)));
    ASSERT_EQ(layers.size(), std::size_t(variant.options.num_hidden_layers));
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
      EXPECT_LE(largest(layers[layer].to(at::kDouble) - want_layers[layer]), 2e-5 * (1 + largest(want_layers[layer])));
  }
}

TEST(Decoder, ATokenChangesNothingBeforeIt) {
  constexpr std::int64_t kLength = 9;
  const at::Tensor tokens = draw_ids({2, kLength}, kVocabSize);
  for (const Variant& variant : variants()) {
    SCOPED_TRACE(variant.name);
    const Decoder decoder = random_decoder(variant.options);
    const at::Tensor before = decoder.forward(tokens).view({2, kLength, 16});
    for (const std::int64_t position : {std::int64_t(0), std::int64_t(4), kLength - 1}) {
      at::Tensor changed = tokens.clone();
      changed[0][position] = (tokens[0][position] + 1) % kVocabSize;
      const at::Tensor difference = (decoder.forward(changed).view({2, kLength, 16}) - before).abs().amax({2});
      for (std::int64_t t = 0; t < kLength; ++t) {
        const double moved = difference[0][t].item<double>();
        if (t < position || (t > position && variant.options.num_hidden_layers == 0)) {
          EXPECT_LE(moved, 1e-6) << position << " moves " << t;
        } else {
          EXPECT_GT(moved, t == position ? 1e-3 : 1e-6) << position << " misses " << t;
        }
      }
      EXPECT_LE(largest(difference[1]), 1e-6) << "another sequence moved";
    }
  }
}

TEST(Decoder, FeaturesDoNotDependOnTheLengthsSeenBefore) {
  for (const Variant& variant : variants()) {  // rotary tables grow on demand
    SCOPED_TRACE(variant.name);
    const Decoder decoder = random_decoder(variant.options);
    const at::Tensor tokens = draw_ids({1, 10}, kVocabSize);
    const at::Tensor short_first = decoder.forward(tokens.narrow(1, 0, 4)), whole = decoder.forward(tokens);
    const at::Tensor short_last = decoder.forward(tokens.narrow(1, 0, 4));
    EXPECT_TRUE(short_first.equal(short_last));
    EXPECT_LE(largest(whole.narrow(0, 0, 4) - short_first), 1e-5);
  }
}

TEST(Decoder, SharedKeyHeadsAreRepeatedHeads) {
  DecoderOptions shared = tiny_options(), repeated = tiny_options();
  shared.num_key_value_heads = 2;
  const Decoder small = random_decoder(shared), large = random_decoder(repeated);
  ReferenceDecoder::Values from;
  for (const auto& [name, tensor] : named_tensors(small.parameters())) from[name] = tensor;
  for (const auto& [name, into] : named_tensors(large.parameters())) {
    at::Tensor value = from.at(name);
    if (name.find("k_proj") != name.npos || name.find("v_proj") != name.npos)
      value = value.view({2, 1, 4, 16}).expand({2, 2, 4, 16}).reshape({16, 16});
    at::Tensor(into).copy_(value);
  }
  const at::Tensor tokens = draw_ids({2, 6}, kVocabSize);
  EXPECT_LE(largest(small.forward(tokens) - large.forward(tokens)), 1e-6);
}

TEST(Decoder, NormsStandWhereTheSpecificationSays) {
  const at::Tensor tokens = draw_ids({2, 6}, kVocabSize);
  const auto rows_are_normal = [](const at::Tensor& features) { return largest(features.square().mean(1) - 1) < 1e-3; };
  for (const std::string position : {"pre", "post", "output"}) {
    DecoderOptions options = tiny_options();
    options.norm_position = position;
    options.initializer_range = 0.3;
    const Decoder decoder = make_decoder(options, kVocabSize, 0);  // gains are 1
    std::vector<at::Tensor> layers;
    EXPECT_TRUE(rows_are_normal(decoder.forward(tokens, &layers))) << position;
    EXPECT_EQ(rows_are_normal(layers[0]), position == "post") << position;
    const auto tensors = values_of(decoder.parameters());
    EXPECT_EQ(tensors.count("model.norm.weight"), position == "post" ? 0u : 1u) << position;
  }
}

TEST(Decoder, LearnedPositionsHaveAnEnd) {
  DecoderOptions options = tiny_options();
  options.position = "learned";
  options.max_position_embeddings = 5;
  const Decoder decoder = make_decoder(options, kVocabSize, 0);
  decoder.forward(draw_ids({1, 5}, kVocabSize));
  EXPECT_ERROR(decoder.forward(draw_ids({1, 6}, kVocabSize)),
               "[decoder] a sequence must be no longer than model.max_position_embeddings 5, got 6");
  EXPECT_ERROR(decoder.forward(draw_ids({6}, kVocabSize)), "[decoder] tokens must be [B, T], got [6]");
}

TEST(Decoder, FusedProjectionsStartAsSeparateOnesWould) {
  const Decoder decoder = make_decoder(tiny_options(), kVocabSize, 9);
  std::size_t parts = 0;
  for (const ParameterPtr& parameter : decoder.parameters()) parts += parameter->parts.size();
  EXPECT_EQ(parts, 2u * 5);  // q, k, v, gate and up
  for (const auto& [name, tensor] : named_tensors(decoder.parameters())) {
    if (name.find("_proj") == name.npos) continue;
    const ParameterPtr alone =
        ParameterFactory(9).make(name, ParameterKind::kMatrix, tensor.sizes(), normal_initializer(0.02));
    EXPECT_TRUE(tensor.equal(alone->value.detach())) << name;
  }
}

TEST(Decoder, InitialValuesAreThePublishedOnes) {
  for (const std::string initializer : {"llama", "gpt2"}) {
    DecoderOptions options = tiny_options();
    options.hidden_size = 64;
    options.num_hidden_layers = 8;
    options.initializer = initializer;
    options.attention_bias = options.mlp_bias = true;
    const Decoder decoder = make_decoder(options, 200, 0);
    for (const auto& [name, tensor] : named_tensors(decoder.parameters())) {
      if (tensor.dim() == 1) {
        const double constant = name.ends_with(".bias") ? 0 : 1;
        EXPECT_EQ(largest(tensor - constant), 0) << name;
        continue;
      }
      const bool residual = name.find("o_proj") != name.npos || name.find("down_proj") != name.npos;
      const double want = initializer == "gpt2" && residual ? 0.02 / 4 : 0.02;
      EXPECT_NEAR(tensor.std().item<double>() / want, 1, 4 / std::sqrt(2.0 * double(tensor.numel()))) << name;
    }
  }
}

TEST(Decoder, ParametersAreAsManyAsCounted) {
  for (const Variant& variant : variants()) {
    const DecoderOptions& o = variant.options;
    const std::int64_t d = o.hidden_size, f = o.resolved_intermediate_size(), head = o.resolved_head_dim();
    const std::int64_t q = o.num_attention_heads * head, kv = o.resolved_num_key_value_heads() * head;
    const std::int64_t norm = o.norm == "layernorm" ? 2 * d : d, inner = o.activation == "swiglu" ? 2 * f : f;
    std::int64_t block = d * (q + 2 * kv) + q * d + d * inner + f * d + 2 * norm;
    if (o.attention_bias) block += q + 2 * kv + d;
    if (o.mlp_bias) block += inner + d;
    if (o.qk_norm) block += 2 * head;
    std::int64_t want = kVocabSize * d + o.num_hidden_layers * block + (o.norm_position == "post" ? 0 : norm);
    if (o.position == "learned") want += o.max_position_embeddings * d;
    std::int64_t got = 0;
    const Decoder decoder = make_decoder(o, kVocabSize, 0);
    for (const ParameterPtr& parameter : decoder.parameters()) got += parameter->value.numel();
    EXPECT_EQ(got, want) << variant.name;
  }
}

TEST(Decoder, WorkingInBfloat16IsNearFloat32) {
  const at::Tensor tokens = draw_ids({2, 8}, kVocabSize);
  for (const Variant& variant : variants()) {
    SCOPED_TRACE(variant.name);
    if (variant.options.num_hidden_layers == 0) continue;
    const Decoder decoder = random_decoder(variant.options);
    const at::Tensor want = decoder.forward(tokens);
    set_working_type(decoder.parameters(), at::kBFloat16);
    std::vector<at::Tensor> layers;
    const at::Tensor got = decoder.forward(tokens, &layers);
    EXPECT_EQ(got.scalar_type(), at::kBFloat16);
    EXPECT_EQ(layers[0].scalar_type(), at::kFloat);  // the residual stream
    const at::Tensor difference = got.to(at::kFloat) - want;
    EXPECT_LE((difference.norm() / want.norm()).item<double>(), 0.03);
    EXPECT_GT(largest(difference), 0);
  }
}

TEST(DecoderOptions, ContradictionsAreNamed) {
  const auto with = [](auto&& change) {
    DecoderOptions options = tiny_options();
    change(options);
    return options;
  };
  EXPECT_ERROR(with([](auto& o) { o.hidden_size = 18; }).check(),
               "hidden_size 18 must be a multiple of num_attention_heads 4");
  EXPECT_ERROR(with([](auto& o) { o.num_key_value_heads = 3; }).check(),
               "must be a multiple of num_key_value_heads 3, got 4");
  EXPECT_ERROR(with([](auto& o) { o.num_key_value_heads = 8; }).check(),
               "must be a multiple of num_key_value_heads 8, got 4");
  EXPECT_ERROR(with([](auto& o) { o.head_dim = 3; }).check(), "head_dim must be even for rotary positions, got 3");
  EXPECT_ERROR(with([](auto& o) { o.position = "none", o.head_dim = 3; }).check(), "no error");
}

TEST(DecoderOptions, DerivedSizesAreThePublishedOnes) {
  DecoderOptions options;
  options.hidden_size = 256;
  EXPECT_EQ(options.resolved_intermediate_size(), 684);
  options.hidden_size = 768;
  EXPECT_EQ(options.resolved_intermediate_size(), 2048);
  options.activation = "gelu";
  EXPECT_EQ(options.resolved_intermediate_size(), 3072);
}

}  // namespace
}  // namespace lmhead
