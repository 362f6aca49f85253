// Figures as statistics.json has them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "lmhead/base/options.h"
#include "lmhead/diagnose/diagnostic.h"
#include "lmhead/statistics/statistics.h"

namespace lmhead {

/// A number, or null where there is none or it is not finite.
Json number_or_null(const std::optional<double>& value);
/// Two numbers, or null.
Json interval_or_null(const std::optional<Interval>& ends);

}  // namespace lmhead
