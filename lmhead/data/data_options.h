// What a run is trained and validated on, as it stands in a configuration.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lmhead/base/options.h"

namespace lmhead {

/// A synthetic language of one-symbol sequences (Godey & Artzi 2026); see lmhead/data/spamlang.h.
struct SpamlangOptions {
  std::int64_t vocab_size = 1024;
  bool shuffled_map = false;
  void visit_fields(FieldVisitor& visitor);
};

struct DataOptions {
  std::string kind = "tokens";
  std::string path;
  std::string token_type = "auto";
  std::int64_t sequence_length = 128;
  std::int64_t batch_size = 16;
  std::int64_t micro_batches = 1;
  std::int64_t validation_tokens = 65536;
  bool shift_windows = true;
  std::optional<std::int64_t> seed;
  SpamlangOptions spamlang;
  void visit_fields(FieldVisitor& visitor);
};

}  // namespace lmhead
