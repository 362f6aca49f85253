// What the contract test does not know: a gate that is shut, a pointer that is detached, words that were never seen.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

ParameterPtr named(const ParameterList& parameters, const std::string& name) {
  for (const ParameterPtr& parameter : parameters)
    if (parameter->name == name) return parameter;
  throw std::runtime_error("no parameter " + name);
}

TEST(CopyHead, WithTheGateShutIsTheLinearHead) {
  for (const char* gate : {"slot", "sigmoid"}) {
    const Shape shape = {16, 33, 9};
    Bench bench("copy", {{{"width", 3}, {"gate", gate}}}, shape), linear("linear", {Json::object()}, shape);
    at::NoGradGuard no_grad;
    bench.hidden.select(1, 8).fill_(1);  // the gate's bias
    named(bench.all, "lm_head.copy_gate.weight")->value.fill_(0).select(1, 8).fill_(-80);
    linear.all[0]->value.copy_(named(bench.all, "lm_head.weight")->value);
    const at::Tensor want = linear.head->token_losses({.hidden = bench.hidden}, bench.targets);
    EXPECT_LE((bench.head->token_losses(bench.input(), bench.targets) - want).abs().max().item<double>(), 1e-6) << gate;
    EXPECT_NEAR(bench.head->loss(bench.input(), bench.targets).item<double>(), want.mean().item<double>(), 1e-6);
  }
}

TEST(CopyHead, ADetachedPointerChangesTheBodysGradientAlone) {
  const Shape shape = {16, 33, 9};
  const Json options = {{"width", 3}}, detached = {{"width", 3}, {"detached", true}};
  Bench whole("copy", {options}, shape), cut("copy", {detached}, shape);
  for (Bench* bench : {&whole, &cut}) bench->require_gradients();
  const at::Tensor loss = whole.head->loss(whole.input(), whole.targets),
                   same = cut.head->loss(cut.input(), cut.targets);
  EXPECT_TRUE(loss.equal(same));
  loss.backward(), same.backward();
  for (std::size_t index = 0; index < whole.all.size(); ++index)
    EXPECT_TRUE(whole.all[index]->value.grad().equal(cut.all[index]->value.grad())) << whole.all[index]->name;
  EXPECT_FALSE(whole.hidden.grad().equal(cut.hidden.grad()));

  // Where neither words nor gate look at the features, the pointer is all that is left.
  for (Bench* bench : {&whole, &cut}) {
    bench->hidden.mutable_grad() = at::Tensor();
    {
      at::NoGradGuard no_grad;
      for (const char* name : {"lm_head.weight", "lm_head.copy_gate.weight"}) named(bench->all, name)->value.fill_(0);
    }
    bench->head->loss(bench->input(), bench->targets).backward();
  }
  EXPECT_GT(whole.hidden.grad().abs().max().item<double>(), 0);
  EXPECT_EQ(cut.hidden.grad().abs().max().item<double>(), 0);
}

TEST(CopyHead, KnowsWordsThatItNeverSawWhereTheLinearHeadDoesNot) {
  // A language of words that are repeated for ever, over random features with one constant number.
  constexpr std::int64_t kWords = 256, kWidth = 8, kLength = 6;
  const at::Tensor table = at::cat({normal({kWords, kWidth - 1}, "table").to(at::kFloat), at::ones({kWords, 1})}, 1);
  const auto input_of = [&](const at::Tensor& words) {
    const at::Tensor tokens = words.unsqueeze(1).expand({-1, kLength}).contiguous();
    return HeadInput{.hidden = at::embedding(table, tokens.view({-1})), .tokens = tokens};
  };
  const auto unseen_loss = [&](const char* type, const Json& options) {
    const HeadContext context{kWidth, kWords, fresh_parameters(1), 0.02, nullptr};
    const auto head = specification_of(type, {options}).make(context);
    const HeadInput seen = input_of(at::arange(kWords / 2));
    for (int step = 0; step < 100; ++step) {  // of plain descent
      head->loss(seen, seen.tokens.view({-1})).backward();
      at::NoGradGuard no_grad;
      for (const ParameterPtr& parameter : head->parameters()) parameter->value.sub_(take_gradient(*parameter));
    }
    const HeadInput unseen = input_of(at::arange(kWords / 2, kWords));
    return head->loss(unseen, unseen.tokens.view({-1})).item<double>();
  };
  EXPECT_LT(unseen_loss("copy", {{"width", 4}}), 0.05);
  EXPECT_LT(unseen_loss("copy", {{"width", 4}, {"gate", "sigmoid"}, {"band", 2}}), 0.05);
  EXPECT_GT(unseen_loss("linear", Json::object()), std::log(double(kWords)));
}

TEST(CopyHead, BadSettingsAreRefusedInOneLine) {
  EXPECT_ERROR(specification_of("copy", {{{"gate", "open"}}}), "gate must be");
  EXPECT_ERROR(specification_of("copy", {{{"band", 0}}}), "band must be");
}

}  // namespace
}  // namespace lmhead
