// Measurements as a table for a terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "lmhead/base/options.h"

namespace lmhead {

/// Prints the figures of `models` (results of `measure_model`) one below another, a column a model; what was not
/// measured is a dash, and what no model has is left out.
void print_measurements(const Json& models);

}  // namespace lmhead
