// What a study file asks of its arms: comparisons, correlations, and what the source reported.
#pragma once

#include <string>

#include "lmhead/study/study.h"

namespace lmhead {

/// Throws where no arm of `study` is named `name`; `where` is the key that names it.
void check_choice(const Study& study, const std::string& name, const std::string& where);

/// Reads the members `comparisons` and `correlations` of a study file into `study`, whose other members are read. What
/// correlations predict from is kept in rows.
void read_questions(const Json& json, Study& study);

/// Throws where the study's source is not as docs/files.md has it, or names arms that are not there.
void check_source(const Study& study);

}  // namespace lmhead
