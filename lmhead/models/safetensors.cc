#include "lmhead/models/safetensors.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>

#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"

namespace lmhead {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little endian and is read as it is stored");

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 19> kAtenTypes = {{
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E8M0", at::kFloat8_e8m0fnu},
    {"F8_E4M3FNUZ", at::kFloat8_e4m3fnuz},
    {"F8_E5M2FNUZ", at::kFloat8_e5m2fnuz},
    {"I16", at::kShort},
    {"U16", at::kUInt16},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I32", at::kInt},
    {"U32", at::kUInt32},
    {"F32", at::kFloat},
    {"C64", at::kComplexFloat},
    {"F64", at::kDouble},
    {"I64", at::kLong},
    {"U64", at::kUInt64},
}};

/// Bytes that are read at once where they become another type: a larger buffer between tensors that stay would leave
/// holes that the next ones do not fill.
constexpr std::int64_t kConvertedBytes = 256 << 10;
constexpr std::size_t kReadAheadBytes = 1 << 20;

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Indices of the tensors, wider element types first, otherwise in the order given.
std::vector<std::size_t> order_by_width(const std::vector<TensorPieces>& tensors) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](std::size_t index) { return c10::elementSize(tensors[index].type); });
  return order;
}

std::uint64_t bytes_of(const TensorPieces& tensor) {
  std::uint64_t bytes = c10::elementSize(tensor.type);
  for (const std::int64_t size : tensor.shape) bytes *= std::uint64_t(size);
  return bytes;
}

/// The header's JSON text, padded with spaces so that the data begins at a multiple of 8.
std::string header_text(const std::vector<TensorPieces>& tensors, const std::vector<std::size_t>& order,
                        const std::map<std::string, std::string>& metadata, const std::string& file) {
  std::string text = "{";
  const auto quote = [&](const std::string& value) {
    try {
      return nlohmann::json(value).dump();
    } catch (const nlohmann::json::exception&) {
      fail("safetensors", file, ": names and metadata must be UTF-8, got something else");
    }
  };
  const auto add = [&text](std::initializer_list<std::string_view> parts) {
    for (const std::string_view part : parts) text += part;
  };
  if (!metadata.empty()) {
    add({"\"__metadata__\":{"});
    const char* comma = "";
    for (const auto& [key, value] : metadata) add({std::exchange(comma, ","), quote(key), ":", quote(value)});
    add({"}", order.empty() ? "" : ","});
  }
  std::uint64_t begin = 0;
  const char* comma = "";
  for (const std::size_t index : order) {
    const TensorPieces& tensor = tensors[index];
    const std::string& name = tensor.name;
    require(name != "__metadata__", "safetensors", file, ": a tensor must have another name than __metadata__, got it");
    add({std::exchange(comma, ","), quote(name), ":{\"dtype\":\"", safetensors_dtype(tensor.type), "\",\"shape\":["});
    const char* between = "";
    for (const std::int64_t size : tensor.shape) add({std::exchange(between, ","), std::to_string(size)});
    const std::uint64_t end = begin + bytes_of(tensor);
    add({"],\"data_offsets\":[", std::to_string(begin), ",", std::to_string(end), "]}"});
    begin = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  parse_safetensors_json(text, begin, file);  // what is written can be read, names included
  return text;
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  auto file = std::make_shared<const InputFile>(path);
  const auto read = [&](std::uint64_t begin, void* bytes, std::size_t size) { file->read_at(begin, bytes, size); };
  SafetensorsHeader header = read_safetensors_header(file->size(), read, path.string());
  return SafetensorsFile(path, std::move(file), std::move(header));
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  names.reserve(header_.by_name.size());
  for (const std::size_t index : header_.by_name) names.push_back(header_.entries[index].name);
  return names;
}

const SafetensorsEntry& SafetensorsFile::info(std::string_view name) const {
  const SafetensorsEntry* entry = header_.find(name);
  require(entry != nullptr, "safetensors", path_.string(), ": tensor \"", name,
          "\" must be there, got none of that name");
  return *entry;
}

at::ScalarType SafetensorsFile::type(std::string_view name) const {
  const SafetensorsEntry& entry = info(name);
  const auto known =
      std::find_if(kAtenTypes.begin(), kAtenTypes.end(), [&](const auto& type) { return type.first == entry.dtype; });
  require(known != kAtenTypes.end(), "safetensors", path_.string(), ": tensor \"", entry.name,
          "\" must have a type of whole bytes to be computed with, got ", entry.dtype);
  return known->second;
}

/// Fills `into`, contiguous and of the entry's own type, with its numbers from number `first` on.
void SafetensorsFile::read_numbers(const SafetensorsEntry& entry, std::int64_t first, const at::Tensor& into) const {
  if (into.numel() == 0) return;
  auto* data = static_cast<std::byte*>(into.mutable_data_ptr());
  file_->read_at(header_.data_start + entry.begin + std::uint64_t(first) * into.element_size(), data, into.nbytes());
  if (into.scalar_type() != at::kBool) return;  // any other byte in a bool is undefined behaviour
  require(std::all_of(data, data + into.nbytes(), [](std::byte value) { return value <= std::byte{1}; }), "safetensors",
          path_.string(), ": tensor \"", entry.name, "\" must hold 0 and 1 as BOOL, got another byte");
}

at::Tensor SafetensorsFile::tensor(std::string_view name) const {
  const SafetensorsEntry& entry = info(name);
  const auto type = this->type(name);
  require_memory("safetensors", "tensor \"" + entry.name + "\" of " + path_.string(), double(entry.bytes()));
  at::Tensor whole = at::empty(entry.shape, type);
  read_numbers(entry, 0, whole);
  return whole;
}

at::Tensor SafetensorsFile::rows(std::string_view name, std::int64_t begin, std::int64_t count) const {
  const SafetensorsEntry& entry = info(name);
  const bool has_rows =
      !entry.shape.empty() && begin >= 0 && count >= 0 && begin <= entry.shape[0] && count <= entry.shape[0] - begin;
  require(has_rows, "safetensors", path_.string(), ": tensor \"", entry.name, "\" must have rows ", begin, " to ",
          begin + count, ", got shape ", at::IntArrayRef(entry.shape));
  std::vector<std::int64_t> shape = entry.shape;
  shape[0] = count;
  at::Tensor part = at::empty(shape, type(name));
  read_numbers(entry, count == 0 ? 0 : begin * (part.numel() / count), part);
  return part;
}

void SafetensorsFile::read_into(std::string_view name, const at::Tensor& into) const {
  const SafetensorsEntry& entry = info(name);
  const auto type = this->type(name);
  require(into.sizes() == at::IntArrayRef(entry.shape), "safetensors", path_.string(), ": tensor \"", entry.name,
          "\" must be read into one of shape ", at::IntArrayRef(entry.shape), ", got ", into.sizes());
  at::NoGradGuard no_grad;
  if (!into.is_contiguous() || !into.is_cpu()) {
    at::Tensor(into).copy_(tensor(name));
    return;
  }
  if (into.scalar_type() == type) {
    read_numbers(entry, 0, into);
    into.unsafeGetTensorImpl()->bump_version();  // as writing by an operation would: caches are kept by it
    return;
  }
  const at::Tensor flat = into.detach().view({-1});
  const std::int64_t most = kConvertedBytes / std::int64_t(c10::elementSize(type));
  const at::Tensor block = at::empty({std::min(most, flat.numel())}, type);
  for (std::int64_t first = 0; first < flat.numel(); first += most) {
    const at::Tensor numbers = block.narrow(0, 0, std::min(most, flat.numel() - first));
    read_numbers(entry, first, numbers);
    flat.narrow(0, first, numbers.numel()).copy_(numbers);
  }
}

void SafetensorsFile::read_ahead(std::string_view name, const std::atomic<bool>& stopped) const noexcept {
  try {
    const SafetensorsEntry& entry = info(name);
    std::vector<char> block(kReadAheadBytes);
    for (std::uint64_t done = 0; done < entry.bytes() && !stopped; done += block.size())
      file_->read_at(header_.data_start + entry.begin + done, block.data(),
                     std::size_t(std::min<std::uint64_t>(block.size(), entry.bytes() - done)));
  } catch (...) {  // whoever reads it in earnest says what is wrong
  }
}

void SafetensorsFile::drop_cached(std::string_view name) const {
  const SafetensorsEntry& entry = info(name);
  file_->drop_cached(header_.data_start + entry.begin, entry.bytes());
}

std::string_view safetensors_dtype(at::ScalarType type) {
  for (const auto& [name, known] : kAtenTypes) {
    if (known == type) return name;
  }
  fail("safetensors", "a tensor must have a type that the format knows, got ", c10::toString(type));
}

std::string write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                              const std::map<std::string, std::string>& metadata) {
  for (const auto& [name, tensor] : tensors) {
    require(tensor.defined(), "safetensors", path.string(), ": tensor \"", name, "\" must be defined, got nothing");
  }
  return write_pieces(path, in_one_piece(tensors), metadata);
}

std::string write_pieces(const std::filesystem::path& path, const std::vector<TensorPieces>& tensors,
                         const std::map<std::string, std::string>& metadata) {
  const std::vector<std::size_t> order = order_by_width(tensors);
  const std::string header = header_text(tensors, order, metadata, path.string());
  return replace_file_atomic(path, [&](const auto& write) {
    const std::uint64_t length = header.size();
    write(&length, sizeof length);
    write(header.data(), header.size());
    for (const std::size_t index : order) {
      std::uint64_t left = bytes_of(tensors[index]);
      tensors[index].give([&](const at::Tensor& piece) {
        const at::Tensor plain = piece.detach().cpu().contiguous();
        require(plain.nbytes() <= left, "safetensors", path.string(), ": the pieces of \"", tensors[index].name,
                "\" must be the tensor together, got ", plain.nbytes() - left, " bytes more");
        left -= plain.nbytes();
        if (plain.nbytes() > 0) write(plain.const_data_ptr(), plain.nbytes());
      });
      require(left == 0, "safetensors", path.string(), ": the pieces of \"", tensors[index].name,
              "\" must be the tensor together, got ", left, " bytes less");
    }
  });
}

std::vector<TensorPieces> in_one_piece(const NamedTensors& tensors) {
  std::vector<TensorPieces> pieces;
  for (const auto& [name, tensor] : tensors)
    pieces.push_back({name, tensor.scalar_type(), tensor.sizes().vec(), [tensor](const auto& use) { use(tensor); }});
  return pieces;
}

void give_in_file_order(const std::vector<TensorPieces>& tensors) {
  for (const std::size_t index : order_by_width(tensors)) tensors[index].give([](const at::Tensor&) {});
}

}  // namespace lmhead
