#include "lmhead/data/frequency_bands.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace lmhead {
namespace {

TEST(FrequencyBands, RankTiesByIdAndPutUnseenTokensLast) {
  at::Tensor counts = at::zeros({15}, at::kLong);
  counts.narrow(0, 0, 12).fill_(3);
  const FrequencyBands bands = frequency_bands(counts);
  EXPECT_EQ(bands.names, (std::vector<std::string>{"rank 1-10", "rank 11-100", "never seen"}));
  for (std::int64_t id = 0; id < 15; ++id)
    EXPECT_EQ(bands.band[id].item<std::int64_t>(), id < 10 ? 0 : id < 12 ? 1 : 2) << id;
  EXPECT_EQ(frequency_bands(at::zeros({3}, at::kLong)).names, std::vector<std::string>{"never seen"});
}

}  // namespace
}  // namespace lmhead
