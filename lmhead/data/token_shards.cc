#include "lmhead/data/token_shards.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

static_assert(std::endian::native == std::endian::little, "ids are read as they are stored");

constexpr std::size_t kLlmCHeaderBytes = 256 * sizeof(std::int32_t);
constexpr std::int32_t kLlmCUint16 = 20240520, kLlmCUint32 = 20240801;

/// Widens `count` ids, which lie at the end of the memory of `out`, and returns the position of the first that is not
/// below the vocabulary size, or `count`.
template <class Stored>
std::int64_t widen_checked(std::int64_t count, std::int64_t vocab_size, std::int64_t* out) {
  const std::byte* stored = reinterpret_cast<std::byte*>(out) + std::size_t(count) * (sizeof *out - sizeof(Stored));
  for (std::int64_t index = 0; index < count; ++index) {  // an id is read before anything is written where it lies
    Stored id;
    std::memcpy(&id, stored + std::size_t(index) * sizeof id, sizeof id);
    out[index] = std::int64_t(id);
  }
  return std::find_if(out, out + count, [&](std::int64_t id) { return id >= vocab_size; }) - out;
}

}  // namespace

const char* to_string(TokenType type) { return type == TokenType::kUint16 ? "uint16" : "uint32"; }

bool opens_like_llm_c(const InputFile& file) {
  std::int32_t magic = 0;
  if (file.size() < sizeof magic) return false;
  file.read_at(0, &magic, sizeof magic);
  return magic == kLlmCUint16 || magic == kLlmCUint32;
}

TokenShard TokenShard::open_headerless(std::shared_ptr<const InputFile> file, TokenType type, std::int64_t vocab_size) {
  const std::size_t width = width_of(type);
  require(file->size() > 0, "data", file->path().string(), " must hold at least one token, got an empty file");
  require(file->size() % width == 0, "data", file->path().string(), " must hold whole ids of ", width, " bytes, got ",
          file->size(), " bytes: the file is cut short or is of another type");
  const auto size = std::int64_t(file->size() / width);
  return TokenShard(std::move(file), 0, type, size, vocab_size);
}

TokenShard TokenShard::open_llm_c(std::shared_ptr<const InputFile> file, std::int64_t vocab_size) {
  const std::string path = file->path().string();
  require(file->size() >= kLlmCHeaderBytes, "data", path, " must open with llm.c's header of ", kLlmCHeaderBytes,
          " bytes, got ", file->size(), " bytes");
  std::int32_t header[3];
  file->read_at(0, header, sizeof header);
  const auto [magic, version, count] = header;
  const bool uint16 = magic == kLlmCUint16 && version == 1, uint32 = magic == kLlmCUint32 && version == 7;
  require(uint16 || uint32, "data", path,
          " must open with llm.c's magic and version, 20240520 and 1 or 20240801 and 7, got ", magic, " and ", version);
  require(count > 0, "data", path, " must hold at least one token, got a count of ", count, " in its header");
  const TokenType type = uint16 ? TokenType::kUint16 : TokenType::kUint32;
  const std::size_t wanted = kLlmCHeaderBytes + std::size_t(count) * width_of(type);
  require(file->size() == wanted, "data", path, " must have ", wanted, " bytes for the ", count,
          " tokens of its header, got ", file->size());
  return TokenShard(std::move(file), kLlmCHeaderBytes, type, count, vocab_size);
}

std::int64_t TokenShard::at(std::int64_t position) const {
  std::int64_t id;
  copy(position, 1, &id);
  return id;
}

void TokenShard::copy(std::int64_t begin, std::int64_t count, std::int64_t* out) const {
  require(begin >= 0 && count >= 0 && begin <= size_ && count <= size_ - begin, "data", "positions in ",
          path().string(), " must lie in [0, ", size_, "), got ", count, " from ", begin);
  const std::size_t width = width_of(type_), bytes = std::size_t(count) * width;
  file_->read_at(header_ + std::size_t(begin) * width,
                 reinterpret_cast<std::byte*>(out) + (std::size_t(count) * sizeof *out - bytes), bytes);
  const std::int64_t valid = type_ == TokenType::kUint16 ? widen_checked<std::uint16_t>(count, vocab_size_, out)
                                                         : widen_checked<std::uint32_t>(count, vocab_size_, out);
  require(valid == count, "data", path().string(), ": the id at position ", begin + valid,
          " must be below the vocabulary size ", vocab_size_, ", got ", valid < count ? out[valid] : 0);
}

TokenSequence::TokenSequence(std::vector<TokenShard> shards) : shards_(std::move(shards)) {
  require(!shards_.empty(), "data", "a split must have at least one file, got none");
  for (const TokenShard& shard : shards_) ends_.push_back((ends_.empty() ? 0 : ends_.back()) + shard.size());
}

void TokenSequence::copy(std::int64_t begin, std::int64_t count, std::int64_t* out) const {
  require(begin >= 0 && count >= 0 && begin <= size() && count <= size() - begin, "data", "positions in ",
          shards_.front().path().string(), " and the files after it must lie in [0, ", size(), "), got ", count,
          " from ", begin);
  auto shard = std::size_t(std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin());
  while (count > 0) {
    const std::int64_t start = ends_[shard] - shards_[shard].size();
    const std::int64_t here = std::min(count, ends_[shard] - begin);
    shards_[shard].copy(begin - start, here, out);
    begin += here;
    out += here;
    count -= here;
    ++shard;
  }
}

}  // namespace lmhead
