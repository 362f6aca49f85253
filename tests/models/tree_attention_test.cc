// The micro-kernels' way against the plain one in float64, where an error of either would be seen.
#include "lmhead/models/tree_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

using Ids = std::vector<std::int64_t>;

struct Case {
  std::int64_t heads, key_heads, width, window;
};
constexpr Case kCases[] = {{4, 4, 32, 0}, {9, 3, 64, 0}, {2, 1, 7, 0}, {4, 2, 16, 5}, {3, 3, 80, 70}};

/// A question with choices, one of which branches; a chain beyond a block and a task of queries; one token.
TokenTreeBuilder draw_trees(Ids& asked) {
  TokenTreeBuilder builder(/*hidden_size=*/1 << 20);
  const auto add = [&](std::int64_t seed, std::int64_t shared, std::int64_t own, std::int64_t last) {
    Ids ids;
    for (std::int64_t place = 0; place < shared; ++place) ids.push_back(seed);
    for (std::int64_t place = 0; place < own; ++place) ids.push_back(seed + last);
    const Ids& rows = builder.add(ids);
    asked.insert(asked.end(), rows.end() - std::min<std::int64_t>(own, 3), rows.end());
  };
  for (std::int64_t choice = 1; choice < 5; ++choice) add(100, 60, 2 * choice, choice);
  add(100, 61, 9, 7);
  add(200, 0, 300, 1);
  add(300, 0, 1, 1);
  add(400, 20, 4, 1);
  add(400, 20, 70, 2);
  return builder;
}

TreeHeads draw_heads(const Case& sizes, std::int64_t tokens, std::int64_t asked) {
  // Parts of one tensor, as projections are.
  const at::Tensor projected = at::randn({tokens, sizes.heads + 2 * sizes.key_heads, sizes.width}, at::kFloat);
  const auto parts = projected.split_with_sizes({sizes.heads, sizes.key_heads, sizes.key_heads}, 1);
  const at::Tensor query = asked > 0 ? at::randn({asked, sizes.heads, sizes.width}, at::kFloat) : parts[0];
  return {query, parts[1], parts[2], asked > 0};
}

TreeHeads as(const TreeHeads& heads, at::ScalarType type) {
  return {heads.query.to(type), heads.key.to(type), heads.value.to(type), heads.of_asked};
}

TEST(TreeAttention, IsThePlainOne) {
  Ids asked;
  const TokenTreeBuilder builder = draw_trees(asked);
  for (const bool of_asked : {false, true}) {
    const TokenTrees trees = builder.build(of_asked ? asked : Ids());
    for (const Case& sizes : kCases) {
      const TreeHeads heads = draw_heads(sizes, builder.rows(), of_asked ? std::int64_t(asked.size()) : 0);
      const AttentionOptions options{.scale = 0.7, .sliding_window = sizes.window};
      const at::Tensor want = plain_tree_attention(as(heads, at::kDouble), trees, options);
      const at::Tensor got = tree_attention(heads, trees, options);
      ASSERT_EQ(got.sizes(), want.sizes());
      ASSERT_EQ(got.scalar_type(), at::kFloat);
      const double plain = largest(plain_tree_attention(heads, trees, options) - want);
      // Scores reach 30 here, and are rounded in another order: a few times what the plain way is off.
      EXPECT_LE(largest(got - want), 4 * plain + 1e-6) << sizes.width << ' ' << of_asked;
      // Inputs and the result are rounded to 8 bits.
      const at::Tensor narrow = tree_attention(as(heads, at::kBFloat16), trees, options);
      ASSERT_EQ(narrow.scalar_type(), at::kBFloat16);
      EXPECT_LT(largest(narrow.to(at::kDouble) -
                        plain_tree_attention(as(as(heads, at::kBFloat16), at::kDouble), trees, options)),
                0.02)
          << sizes.width << ' ' << of_asked;
      EXPECT_TRUE(tree_attention(heads, trees, options).equal(got));
    }
  }
}

TEST(TreeAttention, CapsScores) {
  Ids asked;
  const TokenTreeBuilder builder = draw_trees(asked);
  const TokenTrees trees = builder.build(asked);
  const TreeHeads heads = draw_heads(kCases[1], builder.rows(), std::int64_t(asked.size()));
  const AttentionOptions options{.scale = 0.7, .softcap = 2};
  EXPECT_LT(
      largest(tree_attention(heads, trees, options) - plain_tree_attention(as(heads, at::kDouble), trees, options)),
      5e-6);
}

TEST(ChainAttention, IsTheAttentionOfEverySequence) {
  for (const Case& sizes : kCases) {
    const at::Tensor projected =
        at::randn({3, 150, sizes.heads + 2 * sizes.key_heads, sizes.width}, at::TensorOptions().dtype(at::kFloat));
    const AttentionOptions options{.scale = 0.1, .sliding_window = sizes.window};
    const auto parts =
        projected.to(at::kDouble).split_with_sizes({sizes.heads, sizes.key_heads, sizes.key_heads}, /*dim=*/2);
    const at::Tensor got = chain_attention(projected, sizes.heads, options);
    ASSERT_EQ(got.scalar_type(), at::kFloat);
    EXPECT_LT(largest(got - causal_attention(parts[0], parts[1], parts[2], options)), 5e-6) << sizes.width;
  }
}

}  // namespace
}  // namespace lmhead
