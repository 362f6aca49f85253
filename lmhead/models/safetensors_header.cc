#include "lmhead/models/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/models/safetensors_json.h"

namespace lmhead {
namespace {

constexpr std::uint64_t kLargestHeader = 100'000'000;  // the cap of the reference implementation
constexpr std::size_t kMostDimensions = 64;            // what ATen's iterators can take
constexpr std::uint64_t kLargestSize = std::uint64_t(std::numeric_limits<std::int64_t>::max());

constexpr std::array<SafetensorsType, 22> kTypes = {{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

/// The JSON text being read and what the messages need.
struct Source {
  SafetensorsJsonReader reader;
  std::string_view file;

  template <class... Parts>
  void check(bool holds, const Parts&... parts) const {
    require(holds, "safetensors", file, ": ", parts...);
  }
};

/// a * b where it stays below 2^63.
std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
  if (a != 0 && b > kLargestSize / a) return std::nullopt;
  return a * b;
}

/// Bytes that shape and type need.
std::uint64_t needed_bytes(const SafetensorsEntry& entry, unsigned bits, const std::string& tensor,
                           const Source& source) {
  bool is_empty = false;
  std::optional<std::uint64_t> product = 1;
  for (const std::int64_t size : entry.shape) {
    is_empty |= size == 0;
    // Zeros count as one here: strides are formed of the other sizes even where there is no element.
    if (product) product = multiply(*product, std::max<std::uint64_t>(std::uint64_t(size), 1));
  }
  if (product) product = multiply(*product, bits);
  source.check(product.has_value(), tensor, " must have fewer than 2^63 bits, got sizes whose product is larger");
  const std::uint64_t all_bits = is_empty ? 0 : *product;
  source.check(all_bits % 8 == 0, tensor, " must fill whole bytes, got ", all_bits, " bits");
  return all_bits / 8;
}

SafetensorsEntry read_entry(Source& source, std::string name) {
  auto& reader = source.reader;
  const std::string tensor = std::string("tensor ").append(quote_for_message(name));
  const bool is_plain = std::none_of(
      name.begin(), name.end(), [](char character) { return std::uint8_t(character) < 0x20 || character == 0x7F; });
  source.check(is_plain, tensor, " must have a name without control characters, got some");

  const auto of_tensor = [&](std::string_view field) { return std::string(field).append(" of ").append(tensor); };
  SafetensorsEntry entry{std::move(name), {}, {}, 0, 0};
  unsigned bits = 0;
  bool has_dtype = false, has_shape = false, has_offsets = false;
  const auto mark = [&](bool& seen, std::string_view field) {
    source.check(!seen, tensor, " must have one ", field, ", got two");
    seen = true;
  };
  reader.read_object(tensor, [&](std::string field) {
    if (field == "dtype") {
      mark(has_dtype, field);
      const std::string dtype = reader.read_string(of_tensor(field));
      const auto type =
          std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) { return known.name == dtype; });
      source.check(type != kTypes.end(), "dtype of ", tensor, " must be a known type, got ", quote_for_message(dtype));
      entry.dtype = type->name;
      bits = type->bits;
    } else if (field == "shape") {
      mark(has_shape, field);
      const std::string what = of_tensor(field);
      reader.read_array(what, [&] {
        source.check(entry.shape.size() < kMostDimensions, what, " must have at most ", kMostDimensions,
                     " sizes, got more");
        const std::uint64_t size = reader.read_integer(what);
        source.check(size <= kLargestSize, what, " must have sizes below 2^63, got ", size);
        entry.shape.push_back(std::int64_t(size));
      });
    } else if (field == "data_offsets") {
      mark(has_offsets, field);
      const std::string what = of_tensor(field);
      std::size_t count = 0;
      reader.read_array(what, [&] {
        source.check(count < 2, what, " must be two numbers, got more");
        (count++ == 0 ? entry.begin : entry.end) = reader.read_integer(what);
      });
      source.check(count == 2, what, " must be two numbers, got ", count);
    } else {
      fail("safetensors", source.file, ": ", tensor, " must have dtype, shape and data_offsets alone, got ",
           quote_for_message(field));
    }
  });
  source.check(has_dtype, tensor, " must have a dtype, got none");
  source.check(has_shape, tensor, " must have a shape, got none");
  source.check(has_offsets, tensor, " must have data_offsets, got none");
  source.check(entry.begin <= entry.end, "data_offsets of ", tensor, " must not end before they begin, got ",
               entry.begin, " and ", entry.end);
  const std::uint64_t needed = needed_bytes(entry, bits, tensor, source);
  source.check(entry.bytes() == needed, tensor, " must have the ", needed, " bytes of its shape and dtype, got ",
               entry.bytes());
  return entry;
}

std::map<std::string, std::string> read_metadata(Source& source) {
  std::map<std::string, std::string> metadata;
  source.reader.read_object("__metadata__", [&](std::string key) {
    std::string value = source.reader.read_string("a value in __metadata__");
    const auto [place, is_new] = metadata.emplace(std::move(key), std::move(value));
    source.check(is_new, "__metadata__ must name ", quote_for_message(place->first), " once, got it twice");
  });
  return metadata;
}

/// Checks that the entries, sorted by their bytes, cover [0, data_bytes) exactly once.
void check_layout(const SafetensorsHeader& header, std::uint64_t data_bytes, const Source& source) {
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    source.check(entry.begin == expected, "tensor ", quote_for_message(entry.name), " must begin at byte ", expected,
                 " of the data, where the one before it ends, got ", entry.begin,
                 entry.begin < expected ? " (overlap)" : " (hole)");
    source.check(entry.end <= data_bytes, "tensor ", quote_for_message(entry.name), " must lie inside the ", data_bytes,
                 " bytes of data, got an end at ", entry.end);
    expected = entry.end;
  }
  source.check(expected == data_bytes, "the file must end with its last tensor, got ", data_bytes - expected,
               " bytes more");
}

void index_names(SafetensorsHeader& header, const Source& source) {
  const auto name = [&](std::size_t index) -> const std::string& { return header.entries[index].name; };
  header.by_name.resize(header.entries.size());
  std::iota(header.by_name.begin(), header.by_name.end(), 0);
  std::sort(header.by_name.begin(), header.by_name.end(), [&](auto a, auto b) { return name(a) < name(b); });
  const auto twice = std::adjacent_find(header.by_name.begin(), header.by_name.end(),
                                        [&](auto a, auto b) { return name(a) == name(b); });
  if (twice != header.by_name.end()) {
    source.check(false, "the header must name tensor ", quote_for_message(name(*twice)), " once, got it twice");
  }
}

}  // namespace

std::span<const SafetensorsType> safetensors_types() { return kTypes; }

const SafetensorsEntry* SafetensorsHeader::find(std::string_view name) const {
  const auto place =
      std::lower_bound(by_name.begin(), by_name.end(), name,
                       [&](std::size_t index, std::string_view wanted) { return entries[index].name < wanted; });
  return place != by_name.end() && entries[*place].name == name ? &entries[*place] : nullptr;
}

SafetensorsHeader parse_safetensors_json(std::string_view text, std::uint64_t data_bytes, std::string_view file) {
  Source source{SafetensorsJsonReader(text, file), file};
  SafetensorsHeader header;
  bool has_metadata = false;
  source.reader.read_object("the header", [&](std::string key) {
    if (std::string_view(key) == "__metadata__") {
      source.check(!has_metadata, "the header must have one __metadata__, got two");
      has_metadata = true;
      header.metadata = read_metadata(source);
    } else {
      header.entries.push_back(read_entry(source, std::move(key)));
    }
  });
  source.reader.read_end();
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  index_names(header, source);
  check_layout(header, data_bytes, source);
  return header;
}

SafetensorsHeader read_safetensors_header(std::uint64_t file_bytes, const ReadBytes& read, std::string_view file) {
  std::array<std::uint8_t, 8> start{};
  require(file_bytes >= start.size(), "safetensors", file, ": the file must hold at least 8 bytes, got ", file_bytes);
  read(0, start.data(), start.size());
  std::uint64_t length = 0;
  for (std::size_t index = 0; index < start.size(); ++index) length |= std::uint64_t(start[index]) << (8 * index);
  require(length <= kLargestHeader, "safetensors", file, ": the header must have at most ", kLargestHeader,
          " bytes, got a length of ", length);
  const std::uint64_t rest = file_bytes - start.size();
  require(length <= rest, "safetensors", file, ": the header must lie inside the file, got a length of ", length,
          " with ", rest, " bytes left");
  std::string text(length, '\0');
  read(start.size(), text.data(), text.size());
  SafetensorsHeader header = parse_safetensors_json(text, rest - length, file);
  header.data_start = start.size() + length;
  return header;
}

}  // namespace lmhead
