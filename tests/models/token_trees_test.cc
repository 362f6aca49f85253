// Trees of sequences against each sequence by itself.
#include "lmhead/models/token_trees.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <thread>

#include "lmhead/base/error.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

using Ids = std::vector<std::int64_t>;
constexpr std::int64_t kVocabSize = 13;

/// Choices after one context, a sequence that is another's beginning, the same again, a stranger, one token.
const std::vector<Ids> kSequences = {{1, 2, 3, 4, 5, 6},
                                     {1, 2, 3, 4, 7},
                                     {1, 2, 3, 4, 7, 8, 9, 10},
                                     {1, 2, 3, 4},
                                     {1, 2, 3, 4},
                                     {5, 2, 3},
                                     {5, 2, 11, 12},
                                     {6}};

TEST(TokenTrees, HoldWhatIsSharedOnce) {
  TokenTreeBuilder builder(/*hidden_size=*/16);
  std::set<std::int64_t> seen;
  for (const Ids& sequence : kSequences) {
    const std::int64_t before = builder.rows(), fresh = builder.fresh_rows(sequence);
    const Ids rows = builder.add(sequence);
    EXPECT_EQ(builder.rows() - before, fresh);
    ASSERT_EQ(rows.size(), sequence.size());
    seen.insert(rows.begin(), rows.end());
    const TokenTrees trees = builder.build();
    for (std::size_t place = 0; place < rows.size(); ++place) {
      EXPECT_EQ(trees.tokens[rows[place]].item<std::int64_t>(), sequence[place]);
      EXPECT_EQ(trees.positions[rows[place]].item<std::int64_t>(), std::int64_t(place));
    }
  }
  const TokenTrees trees = builder.build();
  EXPECT_EQ(trees.tokens.size(0), 6 + 1 + 3 + 0 + 0 + 3 + 2 + 1);
  EXPECT_EQ(std::int64_t(seen.size()), trees.tokens.size(0));
  EXPECT_EQ(trees.depth, 8);
  ASSERT_EQ(trees.trees.size(), 3u);
  EXPECT_TRUE(trees.trees[0].visible.defined());
  EXPECT_FALSE(trees.trees[2].visible.defined());
}

/// One token in common is not worth the scores between strangers.
TEST(TokenTrees, DoNotShareWhereItDoesNotPay) {
  TokenTreeBuilder builder(/*hidden_size=*/16);
  for (std::int64_t sequence = 0; sequence < 3; ++sequence) {
    Ids ids(40, sequence + 2);
    ids[0] = 1;
    builder.add(ids);
  }
  const TokenTrees trees = builder.build();
  EXPECT_EQ(trees.trees.size(), 3u);
  for (const auto& tree : trees.trees) EXPECT_FALSE(tree.visible.defined());
  EXPECT_THROW(builder.add({}), Error);
}

TEST(TokenTrees, GiveTheFeaturesOfEverySequenceByItself) {
  at::NoGradGuard no_grad;
  for (const auto& [name, specification] : specifications(kVocabSize)) {
    const Decoder decoder(specification, fresh_parameters(0));
    randomise(decoder.parameters());
    TokenTreeBuilder builder(specification.hidden_size);
    std::vector<Ids> rows;
    for (const Ids& sequence : kSequences) rows.push_back(builder.add(sequence));
    std::vector<std::int64_t> kept(specification.layers.size());
    std::iota(kept.begin(), kept.end(), 0);
    const auto [got, layers] = decoder.forward_trees({builder.build()}, kept)[0];
    ASSERT_EQ(layers.size(), specification.layers.size());
    for (std::size_t index = 0; index < kSequences.size(); ++index) {
      const at::Tensor tokens = at::tensor(kSequences[index], at::kLong).unsqueeze(0);
      std::vector<at::Tensor> own_layers;
      const at::Tensor want = decoder.forward(tokens, &own_layers), place = at::tensor(rows[index], at::kLong);
      EXPECT_LE(largest(got.index_select(0, place) - want), 1e-5 * (1 + largest(want))) << name << " " << index;
      for (std::size_t layer = 0; layer < layers.size(); ++layer)
        EXPECT_LE(largest(layers[layer].index_select(0, place) - own_layers[layer]),
                  1e-5 * (1 + largest(own_layers[layer])))
            << name << " " << index << " " << layer;
    }
  }
}

TEST(TokenTrees, GiveWhatIsAskedForAlone) {
  at::NoGradGuard no_grad;
  for (const auto& [name, specification] : specifications(kVocabSize)) {
    const Decoder decoder(specification, fresh_parameters(0));
    randomise(decoder.parameters());
    std::vector<TokenTreeBuilder> builders(2, TokenTreeBuilder(specification.hidden_size));
    std::vector<Ids> asked(2);
    std::vector<TokenTrees> whole, parts;
    std::vector<std::int64_t> kept(specification.layers.size());
    std::iota(kept.begin(), kept.end(), 0);
    for (std::size_t index = 0; index < builders.size(); ++index) {
      for (const Ids& sequence : kSequences) {
        if (index == 1 && sequence.size() > 6) continue;
        const Ids& rows = builders[index].add(sequence);  // the last ones twice where sequences are the same
        asked[index].insert(asked[index].end(), rows.end() - std::min<std::int64_t>(2, std::int64_t(rows.size())),
                            rows.end());
      }
      whole.push_back(builders[index].build());
      parts.push_back(builders[index].build(asked[index]));
    }
    const auto want = decoder.forward_trees(whole, kept), got = decoder.forward_trees(parts, kept);
    for (std::size_t index = 0; index < want.size(); ++index) {
      const at::Tensor rows = at::tensor(asked[index], at::kLong);
      const auto expect = [&](const at::Tensor& one, const at::Tensor& all) {
        ASSERT_EQ(one.size(0), rows.size(0));
        EXPECT_LE(largest(one - all.index_select(0, rows)), 1e-5 * (1 + largest(all))) << name << " " << index;
      };
      expect(got[index].hidden, want[index].hidden);
      for (std::size_t layer = 0; layer < kept.size(); ++layer)
        expect(got[index].layers[layer], want[index].layers[layer]);
    }
  }
  TokenTreeBuilder builder(/*hidden_size=*/16);
  builder.add({1, 2, 3});
  builder.add({4, 5});
  EXPECT_THROW(builder.build({4, 0}), Error);
  EXPECT_EQ(builder.build({2, 0}).trees[1].asked, 0);
}

TEST(Decoder, ServesThreadsAtOnce) {
  const Decoder decoder = make_decoder(tiny_options(), kVocabSize);
  std::vector<at::Tensor> want;
  for (std::int64_t length = 1; length <= 60; ++length) {
    const Decoder fresh = make_decoder(tiny_options(), kVocabSize);
    at::NoGradGuard no_grad;
    want.push_back(fresh.forward(draw_ids({1, length}, kVocabSize)));
  }
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread)
    threads.emplace_back([&] {
      at::NoGradGuard no_grad;
      for (std::int64_t length = 1; length <= 60; ++length)
        wrong += !decoder.forward(draw_ids({1, length}, kVocabSize)).equal(want[std::size_t(length - 1)]);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace lmhead
