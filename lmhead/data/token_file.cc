#include "lmhead/data/token_file.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::int64_t kBlocks = 16, kBlock = 1 << 13;  // ids
constexpr std::int64_t kFewest = 16;                    // ids that a pattern is seen in
constexpr std::int64_t kAnyId = std::int64_t(1) << 32;  // a vocabulary that every id is below

/// Whether a sample of ids that were read as uint16 looks like uint32: of every pair the second is 0.
class HighHalves {
 public:
  void add(const std::vector<std::int64_t>& ids) {  // from an even position on
    for (std::size_t index = 0; index < ids.size(); ++index)
      (index % 2 ? second_is_zero_ : first_is_zero_) &= ids[index] == 0;
    count_ += std::int64_t(ids.size());
  }
  bool are_zero() const { return count_ >= kFewest && second_is_zero_ && !first_is_zero_; }

 private:
  bool first_is_zero_ = true, second_is_zero_ = true;
  std::int64_t count_ = 0;
};

/// Throws where what is in a file without a header speaks against how it is read. `shard` allows every id.
void require_likely(const TokenShard& shard, const TokenFile& file) {
  const std::string path = file.path.string(), option = file.option;
  const bool is_uint16 = shard.type() == TokenType::kUint16;
  HighHalves high_halves;
  for (std::int64_t block = 0; block < kBlocks; ++block) {
    const std::int64_t count = std::min(kBlock, shard.size());
    const std::int64_t begin = (shard.size() - count) / (kBlocks - 1) * block / 2 * 2;
    std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
    shard.copy(begin, count, ids.data());
    const auto wrong = std::find_if(ids.begin(), ids.end(), [&](std::int64_t id) { return id >= file.vocab_size; });
    if (wrong != ids.end())
      fail("data", path, ": the id at position ", begin + (wrong - ids.begin()), ", read as ", to_string(shard.type()),
           ", must be below the vocabulary size ", file.vocab_size, ", got ", *wrong,
           ": the vocabulary is another one, or the ids are ", is_uint16 ? "uint32" : "uint16", ", which ", option, "=",
           is_uint16 ? "uint32" : "uint16", " says");
    high_halves.add(ids);
    if (count == shard.size()) break;
  }
  const bool looks_wide = is_uint16 && !file.told && high_halves.are_zero();
  require(!looks_wide, "data", path,
          ", read as uint16, must hold ids, got every second one 0 as uint32 has it: ", option, "=uint32 reads it so, ",
          option, "=uint16 as it is");
}

}  // namespace

std::optional<TokenType> token_type_named(const std::string& name) {
  if (name == "uint16") return TokenType::kUint16;
  if (name == "uint32") return TokenType::kUint32;
  return std::nullopt;
}

TokenShard open_token_file(const TokenFile& file) {
  auto input = std::make_shared<const InputFile>(file.path);
  if (opens_like_llm_c(*input)) {
    TokenShard shard = TokenShard::open_llm_c(std::move(input), file.vocab_size);
    require(!file.told || *file.told == shard.type(), "data", file.option, " must be ", to_string(shard.type()),
            " as the header of ", file.path.string(), " says, got ", to_string(file.told.value_or(shard.type())));
    return shard;
  }
  const TokenType type = file.told.value_or(file.vocab_size > 65536 ? TokenType::kUint32 : TokenType::kUint16);
  require(input->size() % width_of(type) == 0 || file.told || type == TokenType::kUint16, "data", file.path.string(),
          " must hold whole ids of 4 bytes, as a vocabulary of ", file.vocab_size, " needs them, got ", input->size(),
          " bytes: the file is cut short, or its ids are uint16, which ", file.option, "=uint16 says");
  require_likely(TokenShard::open_headerless(input, type, kAnyId), file);
  return TokenShard::open_headerless(std::move(input), type, file.vocab_size);
}

}  // namespace lmhead
