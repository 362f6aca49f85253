// Who trained a run: the sources, the processor, the libraries.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/options.h"

namespace lmhead {

/// A process that trained some of a run's steps. Another processor, libtorch or number of threads adds up in another
/// order; another commit may compute something else.
struct TrainedBy {
  std::string commit;                   // build_commit.h
  std::string processor, instructions;  // its name, and the instructions of it that arithmetic may use
  std::string vector_level;             // what libtorch and our kernels use of them
  std::string torch_version;
  std::optional<std::int64_t> threads;
  void visit_fields(FieldVisitor& visitor);
  bool operator==(const TrainedBy&) const = default;
};

/// This process, with as many threads as libtorch uses now. Texts that cannot be found out are empty.
TrainedBy trained_by_this_process();

/// Adds this process, about to train on after `step`, to those before it, unless it is as the last of them. Where steps
/// were done and nobody knows by whom, the first says so: its commit is "unknown", its texts are empty.
void add_this_process(std::vector<TrainedBy>& trained_by, std::int64_t step);

/// As a list of objects.
Json to_json(const std::vector<TrainedBy>& trained_by);

}  // namespace lmhead
