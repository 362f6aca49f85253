// How words are put into classes, and what becomes of a head of one class.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <numeric>

#include "lmhead/heads/word_classes.h"
#include "lmhead/heads/word_partition.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

using Sizes = std::vector<std::int64_t>;

TEST(WordPartition, ClassesHaveEqualMassAsFarAsRunsAllow) {
  EXPECT_EQ(cut_by_mass({1, 1, 1, 1, 1, 1}, 3), (Sizes{2, 2, 2}));
  EXPECT_EQ(cut_by_mass({8, 4, 2, 1, 1}, 2), (Sizes{1, 4}));
  EXPECT_EQ(cut_by_mass({8, 1, 1, 1, 1}, 3), (Sizes{1, 2, 2}));
  EXPECT_EQ(cut_by_mass({100, 0, 0, 0}, 4), (Sizes{1, 1, 1, 1}));
  EXPECT_EQ(cut_by_mass({0, 0, 0, 0}, 1), (Sizes{4}));
  const Sizes empty_tail = cut_by_mass({5, 5, 0, 0, 0}, 2);
  EXPECT_EQ(std::accumulate(empty_tail.begin(), empty_tail.end(), std::int64_t(0)), 5);
  EXPECT_ERROR(cut_by_mass({1, 1}, 3), "classes must be 1 to 2, got 3");
  EXPECT_ERROR(cut_by_mass({1, 1}, 0), "classes must be 1 to 2, got 0");
}

TEST(WordPartition, OfZipfsLawCostsWhatClassesOfEqualSizeCost) {
  constexpr std::int64_t kWords = 8192, kClasses = 91;
  std::vector<double> masses;
  for (std::int64_t rank = 1; rank <= kWords; ++rank) masses.push_back(1.0 / double(rank));
  const double all = std::accumulate(masses.begin(), masses.end(), 0.0);
  const Sizes sizes = cut_by_mass(masses, kClasses);
  ASSERT_EQ(std::int64_t(sizes.size()), kClasses);
  double expected = 0;  // words that a token's second softmax is over
  std::size_t word = 0;
  for (const std::int64_t size : sizes) {
    ASSERT_GE(size, 1);
    for (std::int64_t place = 0; place < size; ++place) expected += masses[word++] / all * double(size);
  }
  EXPECT_EQ(word, masses.size());
  EXPECT_LT(expected, 1.5 * double(kWords) / double(kClasses));
}

TEST(WordPartition, IsByFallingCountTiesById) {
  HeadContext context{.hidden_size = 2, .vocab_size = 5, .source = fresh_parameters(0), .initializer_range = 1};
  context.token_counts = [] { return at::tensor({1, 9, 3, 9, 0}, at::kLong); };
  EXPECT_EQ(partition_words("mass", 2, context).order, (Sizes{1, 3, 2, 0, 4}));
  EXPECT_EQ(partition_words("mass", 2, context).sizes, (Sizes{1, 4}));
  EXPECT_EQ(partition_words("sqrt", 2, context).sizes, (Sizes{1, 4}));
  context.token_counts = [] { return at::Tensor(); };  // made up as it is asked for: all count alike
  EXPECT_EQ(partition_words("mass", 2, context).order, (Sizes{0, 1, 2, 3, 4}));
  context.token_counts = [] { return at::arange(3); };
  EXPECT_ERROR(partition_words("mass", 2, context), "counts of tokens must be [5], got [3]");
}

ParameterPtr constant(const char* name, const std::vector<double>& numbers) {
  const at::Tensor value = at::tensor(numbers, at::kFloat);
  return std::make_shared<Parameter>(Parameter{name, ParameterKind::kConstant, value, value, {}});
}

TEST(WordClasses, AreReadAgainWhenTheConstantsChange) {
  const ParameterPtr order = constant("order", {2, 0, 1}), sizes = constant("sizes", {1, 2});
  const WordClasses classes(order, sizes);
  EXPECT_TRUE(classes.layout()->rows.equal(at::tensor({1, 2, 0}, at::kLong)));
  EXPECT_TRUE(classes.layout()->classes.equal(at::tensor({1, 1, 0}, at::kLong)));
  EXPECT_EQ(classes.layout(), classes.layout());
  order->value.copy_(at::tensor({0, 1, 2}));
  EXPECT_TRUE(classes.layout()->classes.equal(at::tensor({0, 1, 1}, at::kLong)));
  sizes->value.copy_(at::tensor({2, 2}));
  EXPECT_ERROR(classes.layout(), "classes must have 1 to 1 words, got 2");
  order->value.copy_(at::tensor({0, 1, 1}));
  EXPECT_ERROR(classes.layout(), "the order of words must hold each of 3 ids once, got 1 in row 2");
}

TEST(WordClasses, TokensStandByClassInTheirOwnOrder) {
  const WordClasses classes(constant("order", {2, 0, 1, 3}), constant("sizes", {1, 2, 1}));
  const ClassGroups groups = group_by_class(at::tensor({1, 2, 0, 2}, at::kLong), *classes.layout());
  ASSERT_EQ(groups.groups.size(), 2u);
  EXPECT_EQ(groups.groups[1].index, 1);
  EXPECT_EQ(groups.groups[1].first, 2);
  EXPECT_TRUE(groups.order.equal(at::tensor({1, 3, 0, 2}, at::kLong)));
  EXPECT_TRUE(groups.places.equal(at::tensor({2, 0, 3, 1}, at::kLong)));
  EXPECT_TRUE(groups.within.equal(at::tensor({0, 0, 1, 0}, at::kLong)));
}

TEST(TwoLevelHead, OfOneClassIsTheLinearHead) {
  const Shape shape = {40, 65, 12};
  Bench linear("linear", {Json::object()}, shape), one("two_level", {{{"classes", 1}}}, shape);
  {
    at::NoGradGuard no_grad;  // the bench's counts fall with the id, so rows stand in the order of ids
    one.head->parameters().back()->value.copy_(linear.head->parameters()[0]->value);
  }
  linear.require_gradients();
  one.require_gradients();
  const at::Tensor want = linear.head->loss(linear.input(), linear.targets);
  const at::Tensor got = one.head->loss(one.input(), one.targets);
  EXPECT_NEAR(got.item<float>(), want.item<float>(), 1e-6);
  want.backward();
  got.backward();
  EXPECT_LE((one.hidden.grad() - linear.hidden.grad()).abs().max().item<float>(), 1e-7);
  EXPECT_LE((one.head->parameters().back()->value.grad() - linear.head->parameters()[0]->value.grad())
                .abs()
                .max()
                .item<float>(),
            1e-7);
}

TEST(TwoLevelHead, BadSettingsAreRefused) {
  const HeadContext context{.hidden_size = 4, .vocab_size = 9, .source = fresh_parameters(0), .initializer_range = 1};
  const auto make = [&](const Json& json) { specification_of("two_level", {json}).make(context); };
  EXPECT_ERROR(make({{"classes", 10}}), "[two_level] classes must be at most V = 9, got 10");
  EXPECT_ERROR(make({{"classes", 0}}), "classes must be null or an integer of at least 1");
  EXPECT_ERROR(make({{"by", "luck"}}), "by must be one of");
  EXPECT_NO_THROW(make({{"classes", 9}}));
}

}  // namespace
}  // namespace lmhead
