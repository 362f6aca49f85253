#include "lmhead/processes/all_tokens.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

TEST(AllTokens, OfOneProcessAreItsOwn) {
  const at::Tensor rows = at::arange(6, at::kFloat).view({3, 2});
  const AllTokens tokens(3, Processes(), TokensOf::kThisProcess);
  EXPECT_TRUE(tokens.gather(rows).equal(rows) && tokens.scatter_sum(rows).equal(rows) && tokens.own(rows).equal(rows));
  EXPECT_TRUE(tokens.spread({2.0}, rows).equal(at::tensor({2.0f, 2.0f, 2.0f})));
}

TEST(AllTokens, EveryIdHasAPlaceInOneProcess) {
  const at::Tensor ids = at::tensor({6, 0, 3, 2, 5, 1, 4, 4}, at::kLong);
  at::Tensor owners = at::zeros_like(ids);
  for (std::int64_t rank = 0, first = 0; rank < 3; ++rank) {  // 7 ids in three processes: 2, 2 and 3
    const std::int64_t rows = rank == 2 ? 3 : 2;
    const at::Tensor places = places_of_ids(ids, 7, rows, Processes("not asked", rank, 3));
    const at::Tensor here = places.ge(0);
    owners += here;
    EXPECT_TRUE(places.masked_select(here).equal(ids.masked_select(here) - first));
    EXPECT_TRUE(places.masked_select(here.logical_not()).eq(-1).all().item<bool>());
    first += rows;
  }
  EXPECT_TRUE(owners.eq(1).all().item<bool>());
  EXPECT_THROW(places_of_ids(ids, 7, 3, Processes("not asked", 0, 3)), Error);
}

}  // namespace
}  // namespace lmhead
