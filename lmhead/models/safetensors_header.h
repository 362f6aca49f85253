// The header of a safetensors file, checked as if an enemy had written it: no torch, no exceptions but
// lmhead::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lmhead {

/// An element type of the format, as the header spells it, and its width.
struct SafetensorsType {
  std::string_view name;
  unsigned bits;
};

/// Every element type that the format knows.
std::span<const SafetensorsType> safetensors_types();

/// One tensor: its bytes are [begin, end) counted from the end of the header.
struct SafetensorsEntry {
  std::string name;
  std::string_view dtype;  // a name out of safetensors_types()
  std::vector<std::int64_t> shape;
  std::uint64_t begin, end;

  std::uint64_t bytes() const { return end - begin; }
};

/// What a header says, all of it checked.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes
  std::vector<std::size_t> by_name;       // indices into `entries`, names ascending
  std::map<std::string, std::string> metadata;
  std::uint64_t data_start = 0;  // offset in the file of the first tensor's first byte

  /// The entry of that name, null where there is none.
  const SafetensorsEntry* find(std::string_view name) const;
};

/// Gives `size` bytes of a file from byte `begin` on, which lie inside it.
using ReadBytes = std::function<void(std::uint64_t begin, void* bytes, std::size_t size)>;

/// Reads the header of a file of `file_bytes` bytes. Throws unless the file is one that can be read in one way only:
/// - the first 8 bytes (little endian) give a header length of at most 100,000,000 that lies inside the file;
/// - the header is strict JSON, whitespace around the object allowed, without duplicate keys, also through
/// escapes;
/// - `__metadata__` maps strings to strings; a tensor has `dtype`, `shape` and `data_offsets` and nothing
/// else, a name
///   without control characters, at most 64 dimensions, and sizes whose product stays below 2^63;
/// - `data_offsets` match shape and dtype, and the tensors cover the data without hole, overlap or bytes left
/// over. Memory: in proportion to the header. `file` opens the messages: `[safetensors] FILE: what must hold,
/// got what`.
SafetensorsHeader read_safetensors_header(std::uint64_t file_bytes, const ReadBytes& read, std::string_view file);

/// The same for the JSON text alone, over `data_bytes` bytes of tensors; `data_start` is left 0.
SafetensorsHeader parse_safetensors_json(std::string_view text, std::uint64_t data_bytes, std::string_view file);

}  // namespace lmhead
