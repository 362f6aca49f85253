#include "lmhead/models/causal_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "lmhead/models/safetensors.h"
#include "tests/data/data_fixtures.h"
#include "tests/models/model_fixtures.h"
#include "tests/models/reference_decoder.h"

namespace lmhead {
namespace {

constexpr std::int64_t kVocabSize = 13;

HeadSpecification head_of(const Json& json) { return read_options<HeadSpecification>(json); }

TEST(CausalModel, BodyIsTheSameUnderAnyHead) {
  DecoderOptions tied = tiny_options();
  tied.tie_word_embeddings = true;
  const CausalModel dense(tiny_options(), head_of({{"type", "linear"}}), kVocabSize, 4);
  const CausalModel others[] = {
      CausalModel(tiny_options(), head_of({{"type", "low_rank"}, {"rank", 3}}), kVocabSize, 4),
      CausalModel(tiny_options(), head_of({{"type", "linear"}, {"bias", true}}), kVocabSize, 4),
      CausalModel(tied, head_of({{"type", "linear"}}), kVocabSize, 4)};
  const auto want = named_tensors(dense.decoder.parameters());
  for (const CausalModel& other : others) {
    const auto got = named_tensors(other.decoder.parameters());
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t index = 0; index < got.size(); ++index) {
      EXPECT_EQ(got[index].first, want[index].first);
      EXPECT_TRUE(got[index].second.equal(want[index].second)) << got[index].first;
    }
  }
  const CausalModel other_seed(tiny_options(), head_of({{"type", "linear"}}), kVocabSize, 5);
  EXPECT_FALSE(named_tensors(other_seed.parameters())[0].second.equal(want[0].second));
}

TEST(CausalModel, ParametersAreBodyThenHead) {
  const CausalModel model(tiny_options(), head_of({{"type", "low_rank"}, {"rank", 3}}), kVocabSize, 0);
  const ParameterList all = model.parameters();
  ASSERT_EQ(all.size(), model.decoder.parameters().size() + 2);
  EXPECT_EQ(all.front()->name, "model.embed_tokens.weight");
  EXPECT_EQ(all[all.size() - 2]->name, "lm_head.down_proj.weight");
  EXPECT_EQ(all.back()->name, "lm_head.up_proj.weight");
  std::set<std::string> names;
  for (const auto& [name, tensor] : named_tensors(all)) EXPECT_TRUE(names.insert(name).second) << name;
}

TEST(CausalModel, RowsOfWordsAreTheEmbeddingAndTheHeads) {
  DecoderOptions tied = tiny_options();
  tied.tie_word_embeddings = true;
  const auto names_of = [](const DecoderOptions& options, const Json& head) {
    std::vector<std::string> names;
    for (const ParameterPtr& one : CausalModel(options, head_of(head), kVocabSize, 0).word_rows()) {
      EXPECT_EQ(one->value.size(0), kVocabSize);
      names.push_back(one->name);
    }
    return names;
  };
  const std::string embedding = "model.embed_tokens.weight";
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_of(tiny_options(), {{"type", "linear"}, {"bias", true}}),
            (Names{embedding, "lm_head.weight", "lm_head.bias"}));
  EXPECT_EQ(names_of(tiny_options(), {{"type", "low_rank"}, {"rank", 3}}),
            (Names{embedding, "lm_head.up_proj.weight"}));
  EXPECT_EQ(names_of(tied, {{"type", "linear"}, {"bias", true}}), (Names{embedding, "lm_head.bias"}));
}

TEST(CausalModel, ATrainedMatrixIsReadInTheOrderOfIds) {
  const ScratchFolder folder;
  const std::string path = (folder / "model.safetensors").string();
  const at::Tensor own = at::tensor({1.0, 2.0, 3.0}).unsqueeze(1), embedding = own + 5;
  const at::Tensor order = at::tensor({2.0, 0.0, 1.0});
  write_safetensors(path, {{"lm_head.weight", own}, {"model.embed_tokens.weight", embedding}});
  EXPECT_TRUE(read_trained_matrix(path).equal(own.to(at::kFloat)));
  write_safetensors(path, {{"lm_head.weight", own}, {"lm_head.word_order", order}});
  EXPECT_TRUE(read_trained_matrix(path).equal(at::tensor({2.0, 3.0, 1.0}).unsqueeze(1).to(at::kFloat)));
  write_safetensors(path, {{"model.embed_tokens.weight", embedding}});
  EXPECT_TRUE(read_trained_matrix(path).equal(embedding.to(at::kFloat)));
  write_safetensors(path, {{"other", own}});
  EXPECT_ERROR(read_trained_matrix(path), "must hold lm_head.weight or model.embed_tokens.weight, got neither");
  EXPECT_ERROR(read_trained_matrix(""), "weights must name a checkpoint's model.safetensors for by = kmeans, got none");
}

TEST(CausalModel, NamedTensorsAreViewsOfTheMasters) {
  const CausalModel model(tiny_options(), head_of({{"type", "linear"}}), kVocabSize, 0);
  for (const auto& [name, tensor] : named_tensors(model.parameters())) at::Tensor(tensor).fill_(2);
  for (const ParameterPtr& parameter : model.parameters())
    EXPECT_EQ(largest(parameter->value.detach() - 2), 0) << parameter->name;
}

/// Loss of the whole model in float64, from tensors as outsiders know them.
double reference_loss(const DecoderOptions& options, const ReferenceDecoder::Values& values, const at::Tensor& tokens,
                      const at::Tensor& targets) {
  const at::Tensor features = ReferenceDecoder(options, values).features(tokens);
  const at::Tensor weight = values.at(options.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  const at::Tensor logits = features.matmul(weight.t());
  return -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).mean().item<double>();
}

TEST(CausalModel, GradientsAreCentralDifferencesOfTheReference) {
  const at::Tensor tokens = draw_ids({2, 5}, kVocabSize), targets = draw_ids({10}, kVocabSize, "targets");
  for (const Variant& variant : variants()) {
    SCOPED_TRACE(variant.name);
    const CausalModel model(variant.options, HeadSpecification(), kVocabSize, 0);
    randomise(model.parameters());
    ReferenceDecoder::Values values, gradients;
    for (const auto& [name, tensor] : named_tensors(model.parameters())) values[name] = tensor.to(at::kDouble);

    const HeadInput input{model.decoder.forward(tokens), tokens, {}};
    const at::Tensor loss = model.head->loss(input, targets);
    EXPECT_NEAR(loss.item<double>(), reference_loss(variant.options, values, tokens, targets), 1e-5);
    loss.backward();
    for (const ParameterPtr& parameter : model.parameters()) {
      const at::Tensor gradient = take_gradient(*parameter);
      ASSERT_TRUE(gradient.defined()) << parameter->name;
      const Parameter view{parameter->name, parameter->kind, gradient, gradient, parameter->parts};
      for (const auto& [name, part] : named_tensors({std::make_shared<Parameter>(view)}))
        gradients[name] = part.to(at::kDouble);
    }

    // The difference quotient in float64 is exact to about 1e-9, so the tolerance is for float32 through two
    // blocks: some hundred roundings of the largest partial sum.
    constexpr double kStep = 1e-5;
    for (const auto& [name, value] : values)
      for (int probe = 0; probe < 2; ++probe) {
        at::Tensor direction = at::zeros_like(value);
        RandomStream stream(8, name, std::uint64_t(probe));
        for (std::int64_t index = 0; index < direction.numel(); ++index)
          direction.mutable_data_ptr<double>()[index] = stream.normal();
        const auto loss_at = [&](double step) {
          ReferenceDecoder::Values moved = values;
          moved[name] = value + step * direction;
          return reference_loss(variant.options, moved, tokens, targets);
        };
        const double want = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
        const double got = (gradients.at(name) * direction).sum().item<double>();
        const double scale = gradients.at(name).norm().item<double>();
        EXPECT_NEAR(got, want, 1e-4 * scale + 1e-6) << name;
      }
  }
}

TEST(CausalModel, BfloatGradientsArriveInFloatMasters) {
  const at::Tensor tokens = draw_ids({4, 8}, kVocabSize), targets = draw_ids({32}, kVocabSize, "targets");
  for (const Variant& variant : variants()) {
    if (variant.options.num_hidden_layers == 0) continue;
    SCOPED_TRACE(variant.name);
    const CausalModel model(variant.options, HeadSpecification(), kVocabSize, 0);
    randomise(model.parameters());
    std::vector<at::Tensor> exact, before;
    model.head->loss({model.decoder.forward(tokens), tokens, {}}, targets).backward();
    for (const ParameterPtr& parameter : model.parameters()) {
      exact.push_back(take_gradient(*parameter));
      before.push_back(parameter->value.detach().clone());
    }
    set_working_type(model.parameters(), at::kBFloat16);
    model.head->loss({model.decoder.forward(tokens), tokens, {}}, targets).backward();
    const ParameterList all = model.parameters();
    for (std::size_t index = 0; index < all.size(); ++index) {
      const at::Tensor got = take_gradient(*all[index]);
      ASSERT_TRUE(got.defined()) << all[index]->name;
      EXPECT_EQ(got.scalar_type(), at::kFloat) << all[index]->name;
      EXPECT_TRUE(all[index]->value.detach().equal(before[index])) << all[index]->name;
      // Roundings of 2^-9 grow through two blocks of large weights; a path that is lost would cost far more.
      EXPECT_LE((got - exact[index]).norm().item<double>(), 0.3 * exact[index].norm().item<double>() + 1e-4)
          << all[index]->name;
    }
  }
}

TEST(CausalModel, TiedEmbeddingGathersBothGradients) {
  DecoderOptions tied = tiny_options();
  tied.tie_word_embeddings = true;
  const at::Tensor tokens = draw_ids({2, 6}, kVocabSize), targets = draw_ids({12}, kVocabSize, "targets");
  const CausalModel one(tied, HeadSpecification(), kVocabSize, 0),
      two(tiny_options(), HeadSpecification(), kVocabSize, 0);
  randomise(one.parameters());
  randomise(two.parameters());
  {
    at::NoGradGuard no_grad;
    two.head->parameters()[0]->value.copy_(one.decoder.embedding()->value);
  }
  for (const CausalModel* model : {&one, &two})
    model->head->loss({model->decoder.forward(tokens), tokens, {}}, targets).backward();
  const at::Tensor want = two.decoder.embedding()->value.grad() + two.head->parameters()[0]->value.grad();
  EXPECT_LE(largest(one.decoder.embedding()->value.grad() - want), 1e-6 * (1 + largest(want)));
}

}  // namespace
}  // namespace lmhead
