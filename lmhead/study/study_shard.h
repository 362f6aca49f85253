// A part of a study's runs, so that machines that know nothing of each other each carry out their own.
#pragma once

#include <cstdint>
#include <string>

#include "lmhead/study/run_identity.h"

namespace lmhead {

/// The i-th of n parts, i from 1 on. Which part a run is of depends on its identity alone, so that the same runs of two
/// studies fall to the same part.
struct StudyShard {
  std::int64_t index = 1, count = 1;

  bool owns(const RunIdentity& identity) const;
};

/// "i/n". Throws on anything else.
StudyShard parse_study_shard(const std::string& text);

}  // namespace lmhead
