// Every head in the list says the same of a token whether the context came at once or token by token.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "lmhead/models/causal_model.h"
#include "lmhead/models/generation.h"
#include "tests/heads/head_bench.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

constexpr std::int64_t kVocabSize = 29, kEnd = 4;  // which ends a document

DecoderOptions options_of(const Case& one) {
  DecoderOptions options = tiny_options();
  options.hidden_size = 16;
  options.num_hidden_layers = kBenchLayers;
  options.tie_word_embeddings = one.tied;
  return options;
}

CausalModel model_of(const char* type, const Case& one, const ParameterSource& source) {
  return {options_of(one), specification_of(type, one), kVocabSize, source, {}, [] { return bench_bytes(kVocabSize); }};
}

TEST(EveryHead, SamplesWhatTheWholeForwardSays) {
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(16)) {
      SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << one.tied);
      CausalModel model = model_of(kind.type, one, fresh_parameters(1));
      randomise(model.parameters());

      at::NoGradGuard no_grad;
      const std::vector<std::int64_t> prompt = {1, 2, kEnd, 1};
      std::vector<std::int64_t> all = prompt;
      for (int step = 0; step < 12; ++step) {
        const HeadInput input = run_decoder(model.decoder, *model.head, at::tensor(all, at::kLong).unsqueeze(0), kEnd);
        all.push_back(model.head->logits(input)[-1].argmax().item<std::int64_t>());
      }
      const auto generated = generate(model.decoder, *model.head, prompt,
                                      {.sampling = {.temperature = 0}, .max_new_tokens = 12, .end_of_document = kEnd});
      EXPECT_EQ(generated, std::vector<std::int64_t>(all.begin() + 4, all.end()));
    }
}

TEST(EveryHead, IsLoadedFromParametersThatWereNeverDrawn) {
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(16)) {
      SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << one.tied);
      CausalModel drawn = model_of(kind.type, one, fresh_parameters(1)),
                  read = model_of(kind.type, one, unset_parameters());
      const CausalModel shapes = model_of(kind.type, one, shapes_alone());
      EXPECT_EQ(shapes.head->flops_per_token(8), drawn.head->flops_per_token(8));
      at::NoGradGuard no_grad;
      const ParameterList from = drawn.parameters(), to = read.parameters();
      ASSERT_EQ(from.size(), to.size());
      for (std::size_t index = 0; index < from.size(); ++index) to[index]->value.copy_(from[index]->value);
      const at::Tensor tokens = draw_ids({2, 6}, kVocabSize);
      EXPECT_TRUE(read.head->logits(run_decoder(read.decoder, *read.head, tokens))
                      .equal(drawn.head->logits(run_decoder(drawn.decoder, *drawn.head, tokens))));
    }
}

}  // namespace
}  // namespace lmhead
