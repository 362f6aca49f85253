#include "lmhead/base/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lmhead {
namespace {

std::string hash_of(const std::string& text, bool plain, std::size_t piece) {
  Sha256 hash(plain);
  for (std::size_t begin = 0; begin < text.size(); begin += piece)
    hash.update(text.data() + begin, std::min(piece, text.size() - begin));
  return hash.hex();
}

// FIPS 180-4 and what `sha256sum` prints.
TEST(Sha256, IsTheOneOfTheStandard) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1'000'000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const auto& [text, expected] : cases)
    for (const bool plain : {false, true})
      for (const std::size_t piece : {1000000, 64, 63, 7}) EXPECT_EQ(hash_of(text, plain, piece), expected) << piece;
}

TEST(Sha256, IsTheSameWithAndWithoutInstructionsAtEveryLength) {
  std::string text;
  for (unsigned index = 0; index < 300; ++index) {
    EXPECT_EQ(hash_of(text, false, 300), hash_of(text, true, 17)) << index;
    text += char(index * 7919 >> 5);
  }
}

}  // namespace
}  // namespace lmhead
