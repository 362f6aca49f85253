// What memory a measurement takes, and how many tokens may go through the layers together within it.
#pragma once

#include <cstdint>
#include <optional>

#include "lmhead/diagnose/diagnostic.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

/// What decides how much memory a measurement takes, beside the decoder itself.
struct MeasurementShape {
  std::int64_t vocab_size;
  std::int64_t sequence_length;
  at::ScalarType block_type = at::kFloat;  // of the matrices of blocks
  bool reads_blocks = true;                // one at a time; else all are in memory
  bool head_on_disk = false;               // its matrix and basis, of which a tile is in memory at a time
  bool float64 = false;                    // the head's products
  std::int64_t kept_layers = 0;            // whose features the head looks at
  std::vector<std::string> diagnostics = {};
  DiagnosticOptions diagnostic = {};
};

/// Tokens of a batch, which goes through a block at once; a longer window is a batch by itself.
constexpr std::int64_t kBatchTokens = 4096;

/// An upper estimate, in bytes.
struct MemoryNeed {
  double block;      // the largest one
  double head;       // its matrix, and a basis of its column space
  double least;      // with a single batch in a chunk
  double per_token;  // of every further token of a chunk
};
/// Looks at the shapes of `decoder`'s parameters alone.
MemoryNeed memory_need(const Decoder& decoder, const MeasurementShape& shape);

/// Tokens of a chunk: as many as `limit` bytes hold, or without a limit 65,536, fewer where that would be more than a
/// quarter of the memory that is free. Throws where not one batch fits within `limit`, naming what would.
std::int64_t chunk_tokens(const MemoryNeed& need, const MeasurementShape& shape, std::optional<double> limit);

}  // namespace lmhead
