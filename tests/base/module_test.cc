#include "lmhead/base/module.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

ParameterPtr make(const std::string& name, at::IntArrayRef shape, ParameterKind kind = ParameterKind::kMatrix,
                  std::uint64_t seed = 0) {
  return ParameterFactory(seed).make(name, kind, shape, normal_initializer(0.5));
}

TEST(ParameterFactory, ValuesDependOnSeedAndNameAlone) {
  EXPECT_TRUE(make("a", {5, 3})->value.equal(make("a", {5, 3})->value));
  EXPECT_FALSE(make("a", {5, 3})->value.equal(make("b", {5, 3})->value));
  EXPECT_FALSE(make("a", {5, 3})->value.equal(make("a", {5, 3}, ParameterKind::kMatrix, 1)->value));
  EXPECT_TRUE(make("a", {5, 3})->value.equal(make("a", {5, 3}, ParameterKind::kHead)->value));
}

TEST(ParameterFactory, PartsDrawWhatTheyWouldDrawAlone) {
  const ParameterPtr fused = ParameterFactory(7).make("qkv", ParameterKind::kMatrix, {9, 4}, normal_initializer(1),
                                                      {{"q", 5}, {"k", 3}, {"v", 1}});
  std::vector<at::Tensor> alone;
  for (const RowPart& part : fused->parts)
    alone.push_back(ParameterFactory(7)
                        .make(part.name, ParameterKind::kMatrix, {part.rows, 4}, normal_initializer(1))
                        ->value.detach());
  EXPECT_TRUE(fused->value.detach().equal(at::cat(alone)));
}

TEST(ParameterFactory, PartsMustCoverEveryRow) {
  EXPECT_THROW(
      ParameterFactory(0).make("qkv", ParameterKind::kMatrix, {9, 4}, normal_initializer(1), {{"q", 5}, {"k", 3}}),
      Error);
}

TEST(ParameterFactory, InitializersGiveWhatTheySay) {
  const at::Tensor values = make("wide", {300, 300})->value;
  EXPECT_NEAR(values.mean().item<double>(), 0, 4 * 0.5 / 300);
  EXPECT_NEAR(values.std().item<double>(), 0.5, 4 * 0.5 / 300 / std::sqrt(2.0));
  const ParameterPtr constant = ParameterFactory(0).make("c", ParameterKind::kVector, {6}, constant_initializer(1.5));
  EXPECT_TRUE(constant->value.detach().equal(at::ones({6}) * 1.5));
}

TEST(WorkingCopies, ExistForEveryKindThatIsCast) {
  for (const ParameterKind kind : {ParameterKind::kMatrix, ParameterKind::kEmbedding, ParameterKind::kHead,
                                   ParameterKind::kVector, ParameterKind::kBias}) {
    const ParameterPtr parameter = make("a", {4}, kind);
    EXPECT_TRUE(parameter->working.is_same(parameter->value));
    set_working_type({parameter}, at::kBFloat16);
    EXPECT_EQ(parameter->value.scalar_type(), at::kFloat);
    EXPECT_EQ(parameter->working.is_same(parameter->value), kind == ParameterKind::kVector);
    EXPECT_EQ(parameter->working.scalar_type(), kind == ParameterKind::kVector ? at::kFloat : at::kBFloat16);
    set_working_type({parameter}, at::kFloat);
    EXPECT_TRUE(parameter->working.is_same(parameter->value));
  }
}

TEST(WorkingCopies, FollowTheMasterWhenRefreshed) {
  const ParameterPtr parameter = make("a", {4, 4});
  set_working_type({parameter}, at::kBFloat16);
  {
    at::NoGradGuard no_grad;
    parameter->value.add_(1);
  }
  EXPECT_FALSE(parameter->working.detach().equal(parameter->value.detach().to(at::kBFloat16)));
  refresh_working({parameter});
  EXPECT_TRUE(parameter->working.detach().equal(parameter->value.detach().to(at::kBFloat16)));
}

TEST(TakeGradient, IsUndefinedWithoutABackwardPass) { EXPECT_FALSE(take_gradient(*make("a", {2})).defined()); }

TEST(TakeGradient, TakesOnceAndClears) {
  const ParameterPtr parameter = make("a", {3});
  (parameter->value * 2).sum().backward();
  EXPECT_TRUE(take_gradient(*parameter).equal(at::ones({3}) * 2));
  EXPECT_FALSE(take_gradient(*parameter).defined());
}

TEST(TakeGradient, AddsWhatCameThroughMasterAndCopyInFloat) {
  const ParameterPtr parameter = make("a", {3}, ParameterKind::kEmbedding);
  set_working_type({parameter}, at::kBFloat16);
  (parameter->working * 2).sum().backward();
  at::Tensor gradient = take_gradient(*parameter);
  EXPECT_EQ(gradient.scalar_type(), at::kFloat);
  EXPECT_TRUE(gradient.equal(at::ones({3}) * 2));
  ((parameter->value * 0.001).sum() + (parameter->working * 2).sum().to(at::kFloat)).backward();
  gradient = take_gradient(*parameter);  // 2.001 is no bfloat16: the sum must be one of float32
  EXPECT_TRUE(gradient.equal(at::ones({3}) * 0.001 + 2));
  EXPECT_FALSE(take_gradient(*parameter).defined());
}

}  // namespace
}  // namespace lmhead
