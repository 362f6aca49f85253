#include "lmhead/processes/processes.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

class Special : public Error {
 public:
  using Error::Error;
};

TEST(Processes, OneAloneSendsNothingAndGivesBackWhatItWasGiven) {
  const Processes alone;
  EXPECT_TRUE(alone.alone() && alone.is_first());
  const at::Tensor tensor = at::arange(6, at::kFloat).view({3, 2}), before = tensor.clone();
  alone.sum(std::vector<at::Tensor>{tensor});
  EXPECT_TRUE(tensor.equal(before));
  EXPECT_TRUE(alone.sum(tensor).is_same(tensor));
  EXPECT_TRUE(alone.gather(tensor).equal(before.unsqueeze(0)));
  EXPECT_TRUE(alone.gather_rows(tensor).is_same(tensor));
  EXPECT_FALSE(alone.gather_rows(at::Tensor()).defined());
  EXPECT_EQ(alone.sum(0.1), 0.1);
  EXPECT_TRUE(alone.any(true) && !alone.any(false));
  EXPECT_EQ(alone.gather(std::vector<double>{1, 2}), (std::vector<std::vector<double>>{{1, 2}}));
  EXPECT_EQ(alone.from_first("text"), "text");
  alone.require_same("who", "thing", "text");
  EXPECT_TRUE(alone.begin_gather(tensor[0]).equal(before.narrow(0, 0, 1)));
  EXPECT_TRUE(alone.begin_sum_of_lines(before.narrow(0, 0, 1)).equal(before[0]));
  alone.begin_sum(tensor);
  alone.wait(tensor);
  EXPECT_TRUE(tensor.equal(before));
  EXPECT_EQ(alone.seconds(), 0);
}

TEST(Processes, WhatOneAloneThrowsStaysWhatItIs) {
  EXPECT_THROW(Processes().together([] { throw Special("[who] what"); }), Special);
}

TEST(Processes, ARankIsBelowTheirNumber) {
  EXPECT_THROW(Processes("0", 2, 2), Error);
  EXPECT_THROW(Processes("0", -1, 2), Error);
  EXPECT_THROW(Processes("0", 0, 0), Error);
}

TEST(Processes, AGroupThatNobodyMadeIsAProcessThatDoesNotAnswer) {
  EXPECT_THROW(Processes("no such group", 0, 2).sum(1.0), ProcessLost);
}

}  // namespace
}  // namespace lmhead
