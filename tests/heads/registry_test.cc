#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "lmhead/heads/lm_head.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

HeadContext context_of(std::int64_t hidden_size, std::int64_t vocab_size) {
  return {hidden_size, vocab_size, fresh_parameters(0), 0.02, nullptr};
}

TEST(HeadList, NamesAreUniqueAndDescribed) {
  std::set<std::string> names;
  for (const HeadKind& kind : head_kinds()) {
    EXPECT_TRUE(names.insert(kind.type).second) << kind.type;
    for (const char* about : {kind.formula, kind.cost, kind.memory, kind.source}) EXPECT_STRNE(about, "") << kind.type;
    EXPECT_EQ(&head_kind(kind.type), &kind);
  }
}

TEST(HeadList, UnknownNameNamesTheNearest) {
  EXPECT_ERROR(head_kind("low-rank"), "did you mean low_rank?");
  EXPECT_ERROR(read_options<HeadSpecification>(Json{{"type", "linaer"}}), "did you mean linear?");
}

TEST(HeadSpecification, IsWrittenBackAsItWasRead) {
  for (const HeadKind& kind : head_kinds()) {
    const Json complete = write_options(HeadSpecification(kind.type));
    EXPECT_EQ(complete["type"], kind.type);
    EXPECT_EQ(write_options(read_options<HeadSpecification>(complete)), complete);
  }
  const Json given = {{"rank", 3}, {"type", "low_rank"}};  // the type need not come first
  EXPECT_EQ(write_options(read_options<HeadSpecification>(given))["rank"], 3);
}

TEST(HeadSpecification, ReadingOneLeavesOthersAlone) {
  const HeadSpecification untouched;
  const auto changed = read_options<HeadSpecification>(Json{{"type", "linear"}, {"bias", true}});
  EXPECT_EQ(write_options(changed)["bias"], true);
  EXPECT_EQ(write_options(untouched)["bias"], false);
}

TEST(HeadList, EveryWholeNumberOfAHeadHasALargestOne) {
  for (const HeadKind& kind : head_kinds()) {
    const auto options = kind.make_options();
    for (const FieldDescription& field : detail::describe(detail::AnyOptions(*options)))
      EXPECT_TRUE(field.type.find("integer") == std::string::npos || field.type.find("at most") != std::string::npos)
          << kind.type << "." << field.path << ": " << field.type;
  }
}

TEST(HeadSpecification, KeysOfOtherHeadsAreUnknown) {
  EXPECT_ERROR(read_options<HeadSpecification>(Json({{"type", "linear"}, {"rank", 4}})), "rank must be a known key");
  EXPECT_ERROR(read_options<HeadSpecification>(Json({{"type", "low_rank"}, {"bias", true}})),
               "bias must be a known key");
}

TEST(LowRankHead, RankAboveTheWidthIsRefused) {
  const auto specification = read_options<HeadSpecification>(Json{{"type", "low_rank"}, {"rank", 9}});
  EXPECT_ERROR(specification.make(context_of(8, 32)), "[head] head.rank must be at most hidden_size 8, got 9");
  EXPECT_ERROR(read_options<HeadSpecification>(Json({{"type", "low_rank"}, {"rank", 0}})),
               "rank must be an integer of at least 1");
}

TEST(LowRankHead, InitialLogitsAreAsLargeAsTheDenseHeads) {
  // For features of unit square mean, logits have standard deviation range * sqrt(D) under any rank.
  for (const std::int64_t rank : {1, 8, 64}) {
    const auto head =
        read_options<HeadSpecification>(Json{{"type", "low_rank"}, {"rank", rank}}).make(context_of(64, 4096));
    const at::Tensor weight = head->linear_map()->weight;
    const double deviation = weight.square().mean().sqrt().item<double>();
    // W's entries are sums of `rank` products: the estimate wanders with the D * rank numbers of B.
    EXPECT_NEAR(deviation / 0.02, 1, 5 / std::sqrt(64.0 * double(rank))) << rank;
  }
}

TEST(ExpandedHead, InitialLogitsAreAsLargeAsTheDenseHeads) {
  const at::Tensor hidden = normal({512, 64}, "features").to(at::kFloat);
  for (const char* activation : {"none", "gelu", "silu"})
    for (const std::int64_t width : {32, 256}) {
      const Json json = {{"type", "expanded"}, {"width", width}, {"activation", activation}};
      const auto head = read_options<HeadSpecification>(json).make(context_of(64, 2048));
      const double deviation = head->logits({hidden, {}, {}}).square().mean().sqrt().item<double>();
      EXPECT_NEAR(deviation / (0.02 * 8), 1, 5 / std::sqrt(64.0 * double(width))) << activation << width;
    }
}

TEST(ExpandedHead, IsALinearMapWithoutAnActivationAlone) {
  for (const char* activation : {"none", "gelu", "silu"}) {
    const Json json = {{"type", "expanded"}, {"activation", activation}};
    EXPECT_EQ(read_options<HeadSpecification>(json).make(context_of(8, 32))->linear_map().has_value(),
              std::string(activation) == "none");
  }
}

TEST(LinearHead, InitialValuesTakeTheRangeOfTheHeadWhereItHasOne) {
  const auto weight = [](const Json& json) {
    return read_options<HeadSpecification>(json).make(context_of(16, 512))->linear_map()->weight;
  };
  const at::Tensor usual = weight({{"type", "linear"}}),
                   larger = weight({{"type", "linear"}, {"initializer_range", 0.1}});
  EXPECT_LE((larger - 5 * usual).abs().max().item<double>(), 1e-6);  // the same draws
  HeadContext tied = context_of(16, 512);
  tied.tied_embedding = tied.parameter("embedding", {512, 16}, normal_initializer(1), ParameterKind::kEmbedding);
  EXPECT_ERROR(read_options<HeadSpecification>(Json{{"initializer_range", 0.1}}).make(tied),
               "head.initializer_range must be null where model.tie_word_embeddings is true");
}

}  // namespace
}  // namespace lmhead
