// The defaults that the names of runs are told by, as they were when the first rows were kept.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "lmhead/base/options.h"

namespace lmhead {

/// What a configuration is compared with to name its run, for a head of this type. A run's name holds the values that
/// differ from these, so they never change, whatever becomes of today's defaults. Under the name of a list and `[]`
/// stand keys of its items that are younger than the first rows.
Json pinned_defaults(const std::string& head_type);

}  // namespace lmhead
