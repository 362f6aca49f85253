// Figures of two computations that may differ by rounding.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "lmhead/base/json.h"

namespace lmhead::test {

/// `got` has what `want` has, each number within `absolute` + `relative` |number|; `where` names both.
inline void expect_figures_near(const Json& got, const Json& want, double absolute, double relative,
                                const std::string& where) {
  if (want.is_number_float()) {
    ASSERT_TRUE(got.is_number()) << where;
    EXPECT_NEAR(got.get<double>(), want.get<double>(), absolute + relative * std::abs(want.get<double>())) << where;
  } else if (want.is_structured()) {
    ASSERT_EQ(got.size(), want.size()) << where;
    for (auto left = got.begin(), right = want.begin(); right != want.end(); ++left, ++right)
      expect_figures_near(*left, *right, absolute, relative, where + "." + (want.is_object() ? right.key() : ""));
  } else {
    EXPECT_EQ(got, want) << where;
  }
}

}  // namespace lmhead::test
