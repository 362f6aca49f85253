#include "lmhead/data/token_bytes.h"

#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

TEST(TokenBytes, OfByteLevelVocabulariesAreReadBack) {
  const ScratchFolder folder;
  write_text(
      folder / "tokenizer.json",
      "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"\\u0120b\": 1, \"\\u00c3\\u00a9\": 2, \"\\u0143\": "
      "3}}, \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"ByteLevel\"}]}, \"added_tokens\": "
      "[{\"id\": 5, \"content\": \"<|end|>\", \"special\": true}, {\"id\": 6, \"content\": \" \\u00e9\", "
      "\"special\": false}]}");
  EXPECT_EQ(token_bytes_of(folder / "tokenizer.json"), (Texts{"a", " b", "\xC3\xA9", "\xAD", "", "", " \xC3\xA9"}));
}

TEST(TokenBytes, OfOtherVocabulariesAreTheirText) {
  const ScratchFolder folder;
  write_text(folder / "tokenizer.json",
             "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"<unk>\", 0.0], [\"\\u2581the\", -1.5], [\"<0x0A>\", "
             "-2.0]]}}");
  EXPECT_EQ(token_bytes_of(folder / "tokenizer.json"), (Texts{"<unk>", " the", "\n"}));
}

TEST(TokenBytes, OfPlainBytesAreThemselves) {
  const Texts bytes = plain_token_bytes(258);
  ASSERT_EQ(bytes.size(), 258u);
  EXPECT_EQ(bytes[0], std::string(1, '\0'));
  EXPECT_EQ(bytes[255], "\xFF");
  EXPECT_EQ(bytes[256], "");
}

TEST(TokenBytes, OfWhatIsNoTokenizerAreRefused) {
  const ScratchFolder folder;
  for (const char* text : {"[]", "{}", "{\"model\": {\"vocab\": 3}}", "{\"model\": {\"vocab\": {\"a\": -1}}}",
                           "{\"model\": {\"vocab\": [1]}}", "{\"model\": {\"vocab\": {}}, \"added_tokens\": [1]}"}) {
    write_text(folder / "tokenizer.json", text);
    EXPECT_ERROR(token_bytes_of(folder / "tokenizer.json"), "must be a tokenizer.json with");
  }
}

TEST(TokenBytes, OfGpt2MakeUpItsText) {
  const fs::path file = fs::path(LMHEAD_SHARED_DATA) / "tokenizers" / "gpt2.tokenizer.json";
  if (!fs::exists(file)) GTEST_SKIP() << file << " is not here";
  const Texts bytes = token_bytes_of(file);
  ASSERT_EQ(bytes.size(), 50257u);
  EXPECT_EQ(bytes[262], " the");
  EXPECT_EQ(bytes[198], "\n");
  EXPECT_EQ(bytes[50256], "");
  EXPECT_EQ(bytes[220], " ");
}

}  // namespace
}  // namespace lmhead
