// What every head in the list must hold, against the float64 composition of its formula in head_bench.h.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/models/causal_model.h"
#include "lmhead/models/safetensors.h"
#include "lmhead/train/checkpoint.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

using Function = std::function<double(const Values&, const ReferenceInput&)>;

/// Compares gradients of `function` by central differences with those on `bench`: some coordinates and random
/// directions of every tensor; what training alone uses has none elsewhere. The float32 gradients may be off by 2e-5 of
/// the tensor's largest, which is some hundred roundings.
void expect_gradients(const Bench& bench, bool is_training, const Function& function) {
  const double step = bench.entry.difference_step;
  const auto check = [&](const std::string& name, const at::Tensor& gradient, const at::Tensor& point,
                         const std::function<double(const at::Tensor&)>& at_point) {
    if (!is_training && bench.entry.is_training_only(name)) {
      EXPECT_FALSE(gradient.defined()) << name;
      return;
    }
    ASSERT_TRUE(gradient.defined()) << name;
    EXPECT_EQ(gradient.scalar_type(), at::kFloat) << name;
    const at::Tensor got = gradient.cpu().to(at::kDouble);
    const double scale = largest(got);
    RandomStream stream(13, name);
    for (int probe = 0; probe < 6; ++probe) {
      at::Tensor direction = probe < 2 ? normal(point.sizes(), "direction" + std::to_string(probe))
                                       : at::zeros(point.sizes(), at::kDouble);
      if (probe >= 2) direction.view({-1})[std::int64_t(stream.below(std::uint64_t(point.numel())))] = 1.0;
      const double want = (at_point(point + step * direction) - at_point(point - step * direction)) / (2 * step);
      EXPECT_NEAR((got * direction).sum().item<double>(), want, 2e-5 * scale * direction.norm().item<double>() + 2e-7)
          << name;
    }
  };
  check("hidden", bench.hidden.grad(), bench.reference_input.hidden, [&](const at::Tensor& hidden) {
    ReferenceInput changed = bench.reference_input;
    changed.hidden = hidden;
    return function(bench.values, changed);
  });
  for (std::size_t index = 0; index < bench.layers.size(); ++index)
    check("layer " + std::to_string(index), bench.layers[index].grad(), bench.reference_input.layers[index],
          [&](const at::Tensor& layer) {
            ReferenceInput changed = bench.reference_input;
            changed.layers[index] = layer;
            return function(bench.values, changed);
          });
  for (const ParameterPtr& parameter : bench.all) {
    if (parameter->kind == ParameterKind::kConstant) {
      EXPECT_FALSE(parameter->value.requires_grad()) << parameter->name;
      continue;
    }
    check(parameter->name, parameter->value.grad(), bench.values.at(parameter->name), [&](const at::Tensor& value) {
      Values changed = bench.values;
      changed[parameter->name] = value;
      return function(changed, bench.reference_input);
    });
  }
}

TEST(HeadContract, EveryHeadInTheListHasAnEntry) {
  for (const HeadKind& kind : head_kinds()) {
    ASSERT_EQ(entries().count(kind.type), 1u) << "add " << kind.type << " to entries() of tests/heads/head_bench.h";
    EXPECT_FALSE(entries().at(kind.type).cases(8).empty());
  }
  EXPECT_EQ(entries().size(), head_kinds().size());
}

TEST(HeadContract, EveryParameterOfACaseIsUsedByItsReference) {
  // Otherwise a forgotten term in a reference would go unseen where the head forgets it too.
  for_every_head([](Bench& bench, const Shape& shape, std::size_t) {
    if (shape.vocab_size == 1) return;
    const at::Tensor before = bench.reference(),
                     trained = bench.reference_training(bench.values, bench.reference_input, {});
    for (const ParameterPtr& parameter : bench.all) {
      if (parameter->kind == ParameterKind::kConstant) continue;  // other numbers may be no order of words
      const std::string& name = parameter->name;
      const at::Tensor& value = bench.values.at(name);
      Values changed = bench.values;
      changed[name] = value + normal(value.sizes(), "change of " + name);
      if (!bench.entry.is_training_only(name)) {
        EXPECT_GT(largest(bench.reference(changed, bench.reference_input) - before), 1e-6) << name;
      } else if (bench.has_every_target()) {
        EXPECT_GT(largest(bench.reference_training(changed, bench.reference_input, {}) - trained), 1e-6) << name;
      }
    }
  });
}

TEST(HeadContract, LogitsAreTheFormula) {
  for_every_head_and_device([](Bench& bench, const Shape& shape, std::size_t) {
    const at::Tensor got = bench.head->logits(bench.input()).detach().cpu();
    EXPECT_EQ(got.sizes(), (at::IntArrayRef{shape.rows, shape.vocab_size}));
    const at::Tensor want = bench.reference();
    EXPECT_LE(largest(got.to(at::kDouble) - want), 1e-5 * (1 + largest(want)));
  });
}

TEST(HeadContract, RowsAskedForAreThoseOfTheWhole) {
  for_every_case({12, 33, 9}, [](Bench& bench) {
    const at::Tensor rows = at::tensor({7, 0, 11, 7}, at::kLong), targets = bench.targets.index_select(0, rows);
    HeadInput some = bench.input();
    some.rows = rows;
    const auto expect_close = [&](const at::Tensor& got, const at::Tensor& whole) {
      const at::Tensor want = whole.index_select(0, rows);
      ASSERT_EQ(got.sizes(), want.sizes());
      EXPECT_LE(largest(got - want), 2e-6 * (1 + largest(want)));
    };
    expect_close(bench.head->logits(some), bench.head->logits(bench.input()));
    expect_close(bench.head->token_losses(some, targets), bench.head->token_losses(bench.input(), bench.targets));
    expect_close(bench.head->token_scores(some, targets).log_probability,
                 bench.head->token_scores(bench.input(), bench.targets).log_probability);
  });
}

TEST(HeadContract, ProbabilitiesSumToOne) {
  for_every_head_and_device([](Bench& bench, const Shape& shape, std::size_t) {
    // Every token in turn as the target of one row, through the losses themselves.
    HeadInput input = bench.input();
    const c10::Device device = bench.hidden.device();
    input.rows = on_device(at::ones({shape.vocab_size}, at::kLong) * (shape.rows - 1), device);
    const at::Tensor losses = bench.head->token_losses(input, on_device(at::arange(shape.vocab_size), device)).cpu();
    EXPECT_NEAR((-losses).exp().sum(at::kDouble).item<double>(), 1, 1e-5);
    const at::Tensor sums = bench.head->log_probabilities(bench.input()).cpu().exp().sum(1);
    EXPECT_LE(largest(sums - 1), 1e-5);
  });
}

TEST(HeadContract, TokenLossesAndScoresAreMinusTheLogProbability) {
  for_every_head_and_device([](Bench& bench, const Shape&, std::size_t) {
    const at::Tensor logits = bench.reference(), want = reference_token_losses(logits, bench.targets);
    const at::Tensor got = bench.head->token_losses(bench.input(), bench.given_targets).cpu();
    EXPECT_EQ(got.scalar_type(), at::kFloat);
    EXPECT_LE(largest(got.to(at::kDouble) - want), 5e-6 * (1 + largest(want)));
    const TokenScores scores = bench.head->token_scores(bench.input(), bench.given_targets);
    EXPECT_LE(largest(scores.log_probability.cpu().to(at::kDouble) + want), 5e-6 * (1 + largest(want)));
    EXPECT_TRUE(scores.correct.cpu().equal(logits.argmax(1).eq(bench.targets)));
  });
}

TEST(HeadContract, TrainingLossIsTheFormula) {
  for_every_head_and_device([](Bench& bench, const Shape&, std::size_t) {
    for (const LossOptions& options : bench.losses()) {
      const at::Tensor got = bench.head->training_loss(bench.input(), bench.given_targets, options).loss;
      EXPECT_EQ(got.dim(), 0);
      EXPECT_EQ(got.scalar_type(), at::kFloat);
      const double want = bench.reference_training(bench.values, bench.reference_input, options).item<double>();
      EXPECT_NEAR(got.item<double>(), want, 5e-6 * (1 + std::abs(want)));
    }
  });
}

TEST(HeadContract, TermsThatAHeadCannotHaveAreRefused) {
  for_every_case({4, 6, 5}, [](Bench& bench) {
    if (bench.entry.takes_logit_terms) return;
    EXPECT_ERROR(bench.head->check_loss({.z_loss = 0.1}), "loss.z_loss must be 0 for");
    EXPECT_ERROR(bench.head->check_loss({.label_smoothing = 0.1}), "loss.label_smoothing must be 0 for");
    EXPECT_ERROR(bench.head->training_loss(bench.input(), bench.targets, {.z_loss = 0.1}), "loss.z_loss must be 0");
  });
}

TEST(HeadContract, GradientsOfTheTrainingLossAreCentralDifferences) {
  for_every_head_and_device([](Bench& bench, const Shape&, std::size_t count) {
    const std::vector<LossOptions> losses = bench.losses();
    const LossOptions options = losses[count % losses.size()];
    constexpr double kUpstream = 1.7;  // not 1, which would hide a gradient that ignores what comes from above
    bench.require_gradients();
    (bench.head->training_loss(bench.input(), bench.given_targets, options).loss * kUpstream).backward();
    expect_gradients(bench, /*is_training=*/true, [&](const Values& values, const ReferenceInput& input) {
      return kUpstream * bench.reference_training(values, input, options).item<double>();
    });
  });
}

TEST(HeadContract, GradientsOfTokenLossesUnderRandomUpstreamAreCentralDifferences) {
  for_every_head_and_device([](Bench& bench, const Shape& shape, std::size_t) {
    const at::Tensor upstream = normal({shape.rows}, "upstream of losses").to(at::kFloat);
    bench.require_gradients();
    (bench.head->token_losses(bench.input(), bench.given_targets) * on_device(upstream, bench.hidden.device()))
        .sum()
        .backward();
    expect_gradients(bench, /*is_training=*/false, [&](const Values& values, const ReferenceInput& input) {
      return (reference_token_losses(bench.reference(values, input), bench.targets) * upstream).sum().item<double>();
    });
  });
}

TEST(HeadContract, GradientsOfTheLogitsUnderRandomUpstreamAreCentralDifferences) {
  for_every_head_and_device([](Bench& bench, const Shape& shape, std::size_t) {
    const at::Tensor upstream = normal({shape.rows, shape.vocab_size}, "upstream");
    bench.require_gradients();
    (bench.head->logits(bench.input()) * on_device(upstream.to(at::kFloat), bench.hidden.device())).sum().backward();
    expect_gradients(bench, /*is_training=*/false, [&](const Values& values, const ReferenceInput& input) {
      return (bench.reference(values, input) * upstream.to(at::kFloat)).sum().item<double>();
    });
  });
}

TEST(HeadContract, GradientsComeTwiceAsLargeFromTwoBackwardPasses) {
  for_every_case({16, 33, 9}, [](Bench& bench) {
    std::vector<at::Tensor> once;
    for (int pass = 0; pass < 2; ++pass) {
      bench.head->loss(bench.input(), bench.targets).backward();
      for (std::size_t index = 0; index < bench.all.size(); ++index) {
        if (bench.all[index]->kind == ParameterKind::kConstant) {
          once.emplace_back();
          continue;
        }
        const at::Tensor& gradient = bench.all[index]->value.grad();
        if (pass == 0) once.push_back(gradient.clone());
        const double passes = pass + 1;
        EXPECT_LE(largest(gradient - passes * once[index]), 1e-6 * largest(once[index])) << bench.all[index]->name;
      }
    }
  });
}

TEST(HeadContract, TheSameStepDrawsTheSame) {
  for_every_case({16, 33, 9}, [](Bench& bench) {
    const auto loss = [&] { return bench.head->loss(bench.input(), bench.targets).item<double>(); };
    const double first = loss();
    EXPECT_EQ(loss(), first);
    if (!bench.head->needs().random) return;
    const auto is_another = [&](std::int64_t& counter) {  // within some steps: two may draw the same by chance
      const std::int64_t before = counter;
      bool another = false;
      for (int more = 0; more < 5; ++more) {
        ++counter;
        another |= loss() != first;
      }
      counter = before;
      return another;
    };
    EXPECT_TRUE(is_another(bench.step.step));
    EXPECT_TRUE(is_another(bench.step.part));
    bench.step = {};
    EXPECT_ERROR(loss(), "the step of training must be given");
  });
}

TEST(HeadContract, CostIsPositiveAndOfMatricesAlone) {
  for_every_case({4, 33, 9}, [](Bench& bench) {
    EXPECT_GT(bench.head->flops_per_token(8), 0);
    EXPECT_GE(bench.head->memory_per_token(8), 0);
  });
}

TEST(HeadContract, LinearMapGivesTheSameLogits) {
  for_every_head([&](Bench& bench, const Shape& shape, std::size_t) {
    const auto map = bench.head->linear_map();
    if (!map) return;
    EXPECT_EQ(map->weight.sizes(), (at::IntArrayRef{shape.vocab_size, shape.hidden_size}));
    EXPECT_FALSE(map->weight.requires_grad());
    EXPECT_FALSE(map->bias.defined() && map->bias.requires_grad());
    const at::Tensor want = bench.head->logits(bench.input());
    EXPECT_LE(largest(linear_logits(bench.hidden, *map) - want), 1e-5 * (1 + largest(want)));
  });
}

TEST(HeadContract, SavedAndLoadedIsTheSameHead) {
  const ScratchFolder folder;
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(7)) {
      SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << one.tied);
      const Bench saved(kind.type, one, {9, 17, 7}, /*seed=*/3), other(kind.type, one, {9, 17, 7}, /*seed=*/4);
      const at::Tensor want = saved.head->logits(saved.input());
      EXPECT_FALSE(other.head->logits(saved.input()).equal(want));
      write_safetensors(folder / "head.safetensors", named_tensors(saved.all));
      load_parameters(folder / "head.safetensors", other.all);
      EXPECT_TRUE(other.head->logits(saved.input()).equal(want));
    }
}

TEST(HeadContract, TiedHeadsOwnNoMatrixAndAnswerToTheEmbedding) {
  int tied = 0;
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(7)) {
      if (!one.tied) continue;
      ++tied;
      Bench bench(kind.type, one, {9, 17, 7});
      for (const ParameterPtr& parameter : bench.head->parameters())
        EXPECT_FALSE(parameter->value.sizes().equals({17, 7})) << parameter->name;
      const at::Tensor before = bench.head->logits(bench.input());
      {
        at::NoGradGuard no_grad;
        bench.embedding->value.mul_(2).add_(1);  // neither of which alone every head sees
      }
      EXPECT_GT(largest(bench.head->logits(bench.input()) - before), 1e-3);
      bench.head->loss(bench.input(), bench.targets).backward();
      EXPECT_TRUE(bench.embedding->value.grad().defined());
    }
  EXPECT_GE(tied, 2);
}

TEST(HeadContract, HeadsThatCannotBeTiedSaySo) {
  const ParameterPtr embedding =
      fresh_parameters(0)(kEmbeddingName, ParameterKind::kEmbedding, {9, 4}, normal_initializer(1), {});
  for (const HeadKind& kind : head_kinds()) {
    bool may_be_tied = false;
    for (const Case& one : entries().at(kind.type).cases(4)) may_be_tied |= one.tied;
    if (may_be_tied) continue;
    const HeadSpecification head = specification_of(kind.type, entries().at(kind.type).cases(4)[0]);
    EXPECT_ERROR(head.make({4, 9, fresh_parameters(0), 0.02, embedding, kBenchLayers}),
                 "must have model.tie_word_embeddings = false, got true");
  }
}

TEST(HeadContract, BfloatWorkingCopiesGiveFloatGradientsOnTheMasters) {
  for_every_case({16, 33, 9}, [](Bench& bench) {
    bench.head->loss(bench.input(), bench.targets).backward();
    std::vector<at::Tensor> exact;
    for (const ParameterPtr& parameter : bench.all) exact.push_back(take_gradient(*parameter));
    const double want = bench.head->loss(bench.input(), bench.targets).item<double>();

    set_working_type(bench.all, at::kBFloat16);
    HeadInput input = bench.input();
    input.hidden = input.hidden.to(at::kBFloat16);  // layers are of the residual stream, which stays float32
    const at::Tensor loss = bench.head->loss(input, bench.targets);
    EXPECT_EQ(loss.scalar_type(), at::kFloat);
    EXPECT_NEAR(loss.item<double>(), want, 0.02 * (1 + want));  // 2^-8 a rounding, a few of them
    loss.backward();
    for (std::size_t index = 0; index < bench.all.size(); ++index) {
      if (bench.all[index]->kind == ParameterKind::kConstant) continue;
      const at::Tensor got = take_gradient(*bench.all[index]);
      ASSERT_TRUE(got.defined()) << bench.all[index]->name;
      EXPECT_EQ(got.scalar_type(), at::kFloat) << bench.all[index]->name;
      const double cosine =
          (got * exact[index]).sum().item<double>() / (got.norm().item<double>() * exact[index].norm().item<double>());
      EXPECT_GT(cosine, 0.99) << bench.all[index]->name;
    }
  });
}

TEST(HeadContract, WrongInputIsRefusedByName) {
  for (const HeadKind& kind : head_kinds()) {
    SCOPED_TRACE(kind.type);
    const Bench bench(kind.type, entries().at(kind.type).cases(5)[0], {4, 6, 5});
    const auto& head = *bench.head;
    const at::Tensor wide = at::zeros({4, 6}), flat = at::zeros({5}), none;
    EXPECT_ERROR(head.logits({wide, none, {}}), "[head] hidden must be [N, 5], got [4, 6]");
    EXPECT_ERROR(head.logits({flat, none, {}}), "[head] hidden must be [N, 5], got [5]");
    EXPECT_ERROR(head.logits({none, none, {}}), "[head] hidden must be [N, 5]");
    EXPECT_ERROR(head.loss({wide, none, {}}, bench.targets), "[head] hidden must be [N, 5], got [4, 6]");
    const HeadInput good = bench.input();
    EXPECT_ERROR(head.loss(good, at::zeros({3}, at::kLong)), "[head] targets must be int64 [4]");
    EXPECT_ERROR(head.loss(good, at::zeros({4}, at::kInt)), "[head] targets must be int64 [4], got Int");
    EXPECT_ERROR(head.loss(good, at::zeros({2, 2}, at::kLong)), "[head] targets must be int64 [4]");
    EXPECT_ERROR(head.loss(good, none), "[head] targets must be int64 [4]");
    EXPECT_ERROR(head.logits({at::zeros({4, 5}, at::kLong), none, {}}), "[head] hidden must be of a floating type");
  }
}

}  // namespace
}  // namespace lmhead
