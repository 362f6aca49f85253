// Files of token ids, read where they are asked for and with every id checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "lmhead/base/input_file.h"

namespace lmhead {

/// How an id is stored; both are little-endian.
enum class TokenType { kUint16, kUint32 };
const char* to_string(TokenType type);
/// Bytes of an id.
constexpr std::size_t width_of(TokenType type) { return type == TokenType::kUint16 ? 2 : 4; }

/// Whether a file opens with the magic number of llm.c's token files, whatever follows.
bool opens_like_llm_c(const InputFile& file);

/// One file of token ids. Memory: none of it, so a shard may exceed the machine's. A file that is cut short while it is
/// open is an error where what is missing is read.
class TokenShard {
 public:
  /// A file that is nothing but ids. Throws where it is empty or ends inside an id.
  static TokenShard open_headerless(std::shared_ptr<const InputFile> file, TokenType type, std::int64_t vocab_size);
  /// A file of llm.c: 256 int32 (magic, version, token count), then uint16 (magic 20240520, version 1) or
  /// uint32 (magic 20240801, version 7). Throws where magic, version or token count do not fit the file.
  static TokenShard open_llm_c(std::shared_ptr<const InputFile> file, std::int64_t vocab_size);

  /// Number of ids.
  std::int64_t size() const { return size_; }
  /// The id at a position. Throws where the position is outside the shard or the id is not below the
  /// vocabulary size.
  std::int64_t at(std::int64_t position) const;
  /// Writes the ids of [begin, begin + count) to `out`; the same errors, naming file, position and id.
  void copy(std::int64_t begin, std::int64_t count, std::int64_t* out) const;

  TokenType type() const { return type_; }
  const std::filesystem::path& path() const { return file_->path(); }
  /// The whole file, header included.
  const InputFile& file() const { return *file_; }

 private:
  TokenShard(std::shared_ptr<const InputFile> file, std::size_t header, TokenType type, std::int64_t size,
             std::int64_t vocab_size)
      : file_(std::move(file)), header_(header), type_(type), size_(size), vocab_size_(vocab_size) {}

  std::shared_ptr<const InputFile> file_;
  std::size_t header_;
  TokenType type_;
  std::int64_t size_;
  std::int64_t vocab_size_;
};

/// The shards of a split, read as one sequence of ids.
class TokenSequence {
 public:
  explicit TokenSequence(std::vector<TokenShard> shards);
  std::int64_t size() const { return ends_.back(); }
  /// As TokenShard::copy; the range may cross from one shard into the next.
  void copy(std::int64_t begin, std::int64_t count, std::int64_t* out) const;
  const std::vector<TokenShard>& shards() const { return shards_; }

 private:
  std::vector<TokenShard> shards_;
  std::vector<std::int64_t> ends_;  // of each shard, counted from the start of the first
};

}  // namespace lmhead
