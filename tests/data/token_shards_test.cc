#include "lmhead/data/token_shards.h"

#include "data_fixtures.h"

namespace lmhead {
namespace {

TEST(TokenShard, ReadsBothWidthsAtAnyPosition) {
  ScratchFolder folder;
  const std::vector<std::int64_t> small{0, 1, 255, 256, 65535}, large{0, 65536, 4294967295};
  write_ids<std::uint16_t>(folder / "a.bin", small);
  write_ids<std::uint32_t>(folder / "b.bin", large);
  const auto a = TokenShard::open_headerless(folder / "a.bin", TokenType::kUint16, 65536);
  const auto b = TokenShard::open_headerless(folder / "b.bin", TokenType::kUint32, std::int64_t(1) << 32);
  ASSERT_EQ(a.size(), 5);
  ASSERT_EQ(b.size(), 3);
  for (std::size_t index = 0; index < small.size(); ++index) EXPECT_EQ(a.at(std::int64_t(index)), small[index]);
  std::vector<std::int64_t> copied(2);
  b.copy(1, 2, copied.data());
  EXPECT_EQ(copied, (std::vector<std::int64_t>{65536, 4294967295}));
}

TEST(TokenShard, NamesFilePositionAndIdOfAnIdOutsideTheVocabulary) {
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "a.bin", {1, 2, 3, 100, 4, 101});
  const auto shard = TokenShard::open_headerless(folder / "a.bin", TokenType::kUint16, 100);
  std::vector<std::int64_t> out(6);
  shard.copy(0, 3, out.data());
  EXPECT_EQ(error_of([&] { shard.copy(1, 5, out.data()); }),
            "[data] " + (folder / "a.bin").string() +
                ": the id at position 3 must be below the vocabulary size 100, got 100");
  EXPECT_ERROR(shard.at(5), "position 5 must be below the vocabulary size 100, got 101");
}

TEST(TokenShard, RefusesPositionsOutsideTheFile) {
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "a.bin", counting(4));
  const auto shard = TokenShard::open_headerless(folder / "a.bin", TokenType::kUint16, 10);
  std::vector<std::int64_t> out(8);
  EXPECT_ERROR(shard.at(4), "must lie in [0, 4), got 1 from 4");
  EXPECT_ERROR(shard.at(-1), "got 1 from -1");
  EXPECT_ERROR(shard.copy(1, INT64_MAX, out.data()), "must lie in [0, 4)");
  EXPECT_ERROR(shard.copy(1, -1, out.data()), "must lie in [0, 4)");
  shard.copy(4, 0, out.data());
}

TEST(TokenShard, RefusesEmptyOddAndMissingFiles) {
  ScratchFolder folder;
  write_text(folder / "empty.bin", "");
  write_text(folder / "odd.bin", "abc");
  const auto open = [&](const char* name, TokenType type) {
    return error_of([&] { TokenShard::open_headerless(folder / name, type, 10); });
  };
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "must hold at least one token, got an empty file",
                      open("empty.bin", TokenType::kUint16));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "whole ids of 2 bytes, got 3 bytes", open("odd.bin", TokenType::kUint16));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "whole ids of 4 bytes, got 3 bytes", open("odd.bin", TokenType::kUint32));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "must be readable", open("absent.bin", TokenType::kUint16));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "must be a file, got a folder", open(".", TokenType::kUint16));
}

TEST(TokenShard, ReadsBothHeadersOfLlmC) {
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "gpt2.bin", {5, 50256, 7}, llm_c_header(20240520, 1, 3));
  write_ids<std::uint32_t>(folder / "llama.bin", {5, 128000}, llm_c_header(20240801, 7, 2));
  const auto gpt2 = TokenShard::open_llm_c(folder / "gpt2.bin", 50257);
  const auto llama = TokenShard::open_llm_c(folder / "llama.bin", 128256);
  EXPECT_EQ(gpt2.size(), 3);
  EXPECT_EQ(gpt2.at(1), 50256);
  EXPECT_EQ(llama.size(), 2);
  EXPECT_EQ(llama.at(1), 128000);
}

TEST(TokenShard, RefusesHeadersThatDoNotFitTheFile) {
  ScratchFolder folder;
  const auto open = [&](const std::string& header, std::vector<std::int64_t> ids) {
    write_ids<std::uint16_t>(folder / "a.bin", ids, header);
    return error_of([&] { TokenShard::open_llm_c(folder / "a.bin", 10); });
  };
  const auto expect = [](const char* part, const std::string& error) {
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, part, error);
  };
  expect("llm.c's header of 1024 bytes, got 1023 bytes", open(llm_c_header(20240520, 1, 3).substr(1), {}));
  expect("got 20240521 and 1", open(llm_c_header(20240521, 1, 1), {1}));
  expect("got 20240520 and 2", open(llm_c_header(20240520, 2, 1), {1}));
  expect("got 20240801 and 1", open(llm_c_header(20240801, 1, 1), {1}));
  expect("must have 1030 bytes for the 3 tokens of its header, got 1028", open(llm_c_header(20240520, 1, 3), {1, 2}));
  expect("must have 1026 bytes", open(llm_c_header(20240520, 1, 1), {1, 2}));
  expect("must have 8589935612 bytes", open(llm_c_header(20240801, 7, INT32_MAX), {1, 2}));
  expect("got a count of 0", open(llm_c_header(20240520, 1, 0), {}));
  expect("got a count of -3", open(llm_c_header(20240520, 1, -3), {}));
}

TEST(TokenSequence, ReadsAcrossShards) {
  ScratchFolder folder;
  std::vector<TokenShard> shards;
  std::int64_t first = 0;
  for (const std::int64_t count : {3, 1, 4}) {
    write_ids<std::uint16_t>(folder / std::to_string(first), counting(count, first));
    shards.push_back(TokenShard::open_headerless(folder / std::to_string(first), TokenType::kUint16, 100));
    first += count;
  }
  const TokenSequence sequence(std::move(shards));
  ASSERT_EQ(sequence.size(), 8);
  for (std::int64_t begin = 0; begin <= 8; ++begin)
    for (std::int64_t count = 0; begin + count <= 8; ++count) {
      std::vector<std::int64_t> out(static_cast<std::size_t>(count));
      sequence.copy(begin, count, out.data());
      EXPECT_EQ(out, counting(count, begin));
    }
  std::vector<std::int64_t> out(9);
  EXPECT_ERROR(sequence.copy(0, 9, out.data()), "must lie in [0, 8), got 9 from 0");
}

}  // namespace
}  // namespace lmhead
