#include "lmhead/base/content_hash.h"

#include <gtest/gtest.h>

#include "lmhead/base/files.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

// What `xxh128sum` of xxHash 0.8 prints.
constexpr const char* kOfNothing = "99aa06d3014798d86001c324468d497f";
constexpr const char* kOfAbc = "06b05ab6733a618578af5f94892f3950";

TEST(ContentHash, IsTheOneThatXxh128sumPrints) {
  ContentHash hash;
  EXPECT_EQ(hash.hex(), kOfNothing);
  hash.update("a", 1);
  hash.update("", 0);
  hash.update("bc", 2);
  EXPECT_EQ(hash.hex(), kOfAbc);
  EXPECT_EQ(hash.hex(), kOfAbc);
}

TEST(ContentHash, IsTheSameInPiecesAndOfTheFile) {
  const ScratchFolder folder;
  std::string content;
  for (unsigned index = 0; index < 3'000'000; ++index) content += char(index * 7919 >> 5);
  ContentHash pieces;
  for (std::size_t begin = 0; begin < content.size(); begin += 99'991)
    pieces.update(content.data() + begin, std::min<std::size_t>(99'991, content.size() - begin));
  EXPECT_EQ(write_file_atomic(folder / "f", content), pieces.hex());
  EXPECT_EQ(hash_file(folder / "f"), pieces.hex());
  write_file_atomic(folder / "empty", "");
  EXPECT_EQ(hash_file(folder / "empty"), kOfNothing);
}

TEST(ContentHash, SeesEveryFlippedBit) {
  std::string content(100, 'x');
  const auto hash_of = [](const std::string& text) {
    ContentHash hash;
    hash.update(text.data(), text.size());
    return hash.hex();
  };
  const std::string whole = hash_of(content);
  for (std::size_t bit = 0; bit < content.size() * 8; ++bit) {
    content[bit / 8] = char(content[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(hash_of(content), whole) << bit;
    content[bit / 8] = char(content[bit / 8] ^ (1 << bit % 8));
  }
}

}  // namespace
}  // namespace lmhead
