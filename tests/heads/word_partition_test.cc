// Words in classes by their bytes and by a trained matrix.
#include "lmhead/heads/word_partition.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <set>

#include "lmhead/heads/cluster_rows.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

using Ids = std::vector<std::int64_t>;

TEST(WordPartition, ByBytesKeepsCommonBeginningsTogether) {
  HeadContext context{.hidden_size = 2, .vocab_size = 5, .source = fresh_parameters(0), .initializer_range = 1};
  context.token_bytes = [] { return std::vector<std::string>{"the", "a", "th", "\xFF", ""}; };
  const WordPartition partition = partition_words("bytes", 2, context);
  EXPECT_EQ(partition.order, (Ids{4, 1, 2, 0, 3}));
  EXPECT_EQ(partition.sizes, (Ids{3, 2}));
  context.token_bytes = {};
  EXPECT_ERROR(partition_words("bytes", 2, context), "[head] head.by = bytes asks for the bytes of tokens");
}

TEST(WordPartition, PrefixesAreTheLongestOtherWordsThatBytesBeginWith) {
  HeadContext context{.hidden_size = 2, .vocab_size = 7, .source = fresh_parameters(0), .initializer_range = 1};
  context.token_bytes = [] { return std::vector<std::string>{"t", "the", "th", "them", "x", "the", ""}; };
  EXPECT_EQ(prefixes_of_words(context), (Ids{0, 2, 0, 1, 4, 2, 6}));
  context.token_bytes = [] { return std::vector<std::string>{}; };
  EXPECT_ERROR(prefixes_of_words(context), "[head] head.prefix asks for the bytes of tokens");
}

TEST(ClusterRows, FindsGroupsThatLieApart) {
  at::Tensor rows = normal({60, 3}, "rows", 0.1);
  for (std::int64_t row = 0; row < 60; ++row) rows[row] += double(row % 4) * at::tensor({3.0, -2.0, 5.0}, at::kDouble);
  RandomStream stream(1, "test");
  const Ids clusters = cluster_rows(rows, 4, stream);
  std::set<std::int64_t> used;
  for (std::int64_t row = 0; row < 60; ++row) {
    EXPECT_EQ(clusters[std::size_t(row)], clusters[std::size_t(row % 4)]);
    used.insert(clusters[std::size_t(row)]);
  }
  EXPECT_EQ(used.size(), 4u);
}

TEST(ClusterRows, LeavesNoClusterEmpty) {
  const at::Tensor equal = at::tensor({1.0, 1.0, 1.0, 1.0, 2.0}, at::kDouble).unsqueeze(1);
  RandomStream stream(1, "test");
  const Ids clusters = cluster_rows(equal, 5, stream);
  EXPECT_EQ(std::set(clusters.begin(), clusters.end()).size(), 5u);
  EXPECT_ERROR(cluster_rows(equal, 6, stream), "clusters must be 1 to 5, got 6");
}

TEST(TwoLevelHead, ClustersTheRowsOfATrainedMatrix) {
  HeadContext context{.hidden_size = 4, .vocab_size = 6, .source = fresh_parameters(0), .initializer_range = 1};
  std::string asked;
  context.read_trained_matrix = [&](const std::string& path) {
    asked = path;
    return at::tensor({0.0, 9.0, 0.1, 9.1, 9.2, 0.2}, at::kDouble).unsqueeze(1);
  };
  context.token_counts = [] { return at::tensor({1, 5, 3, 9, 1, 1}, at::kLong); };
  const Json json = {{"by", "kmeans"}, {"weights", "model.safetensors"}, {"classes", 2}};
  const auto head = specification_of("two_level", {json}).make(context);
  EXPECT_EQ(asked, "model.safetensors");
  EXPECT_TRUE(head->parameters()[0]->value.equal(at::tensor({3, 1, 4, 2, 0, 5}).to(at::kFloat)));
  EXPECT_TRUE(head->parameters()[1]->value.equal(at::tensor({3, 3}).to(at::kFloat)));
  const auto make = [&](const Json& options) { specification_of("two_level", {options}).make(context); };
  EXPECT_ERROR(make({{"weights", "x"}}), "[two_level] weights must be empty unless by is kmeans, got x");
  context.vocab_size = 7;
  context.token_counts = {};
  EXPECT_ERROR(make(json), "[head] a matrix to cluster must be [7, D], got [6, 1]");
  context.read_trained_matrix = {};
  EXPECT_ERROR(make(json), "[two_level] by must not be kmeans where no matrix can be read");
}

}  // namespace
}  // namespace lmhead
