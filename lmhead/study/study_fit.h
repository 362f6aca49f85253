// What a study asks to be fitted over the places of its grid: paired differences against sizes.
#pragma once

#include <nlohmann/json.hpp>

#include "lmhead/study/confirmed_rows.h"

namespace lmhead {

/// An entry of `fits` of a study file whose arms and comparisons are read. Throws where a predictor is none, the grid
/// has too few places for the coefficients, or a point to be predicted lacks a quantity.
FitRequest read_fit(const Json& json, const Study& study);

/// An entry of statistics.json's `fits` (docs/files.md): of every compared arm and figure the paired differences at
/// each place that has two seeds of both, and what is missing. The least squares are Python's, lmhead.study.fit.
Json fit_points(const ConfirmedRows& confirmed, const FitRequest& request);

}  // namespace lmhead
