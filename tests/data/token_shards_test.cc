#include "lmhead/data/token_shards.h"

#include <sys/resource.h>

#include <memory>

#include "data_fixtures.h"

namespace lmhead {
namespace {

TokenShard open_headerless(const std::filesystem::path& path, TokenType type, std::int64_t vocab_size) {
  return TokenShard::open_headerless(std::make_shared<const InputFile>(path), type, vocab_size);
}

TokenShard open_llm_c(const std::filesystem::path& path, std::int64_t vocab_size) {
  return TokenShard::open_llm_c(std::make_shared<const InputFile>(path), vocab_size);
}

TEST(TokenShard, ReadsBothWidthsAtAnyPosition) {
  ScratchFolder folder;
  const std::vector<std::int64_t> small{0, 1, 255, 256, 65535}, large{0, 65536, 4294967295};
  write_ids<std::uint16_t>(folder / "a.bin", small);
  write_ids<std::uint32_t>(folder / "b.bin", large);
  const auto a = open_headerless(folder / "a.bin", TokenType::kUint16, 65536);
  const auto b = open_headerless(folder / "b.bin", TokenType::kUint32, std::int64_t(1) << 32);
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
  const auto shard = open_headerless(folder / "a.bin", TokenType::kUint16, 100);
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
  const auto shard = open_headerless(folder / "a.bin", TokenType::kUint16, 10);
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
    return error_of([&] { open_headerless(folder / name, type, 10); });
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
  const auto gpt2 = open_llm_c(folder / "gpt2.bin", 50257);
  const auto llama = open_llm_c(folder / "llama.bin", 128256);
  EXPECT_EQ(gpt2.size(), 3);
  EXPECT_EQ(gpt2.at(1), 50256);
  EXPECT_EQ(llama.size(), 2);
  EXPECT_EQ(llama.at(1), 128000);
}

TEST(TokenShard, RefusesHeadersThatDoNotFitTheFile) {
  ScratchFolder folder;
  const auto open = [&](const std::string& header, std::vector<std::int64_t> ids) {
    write_ids<std::uint16_t>(folder / "a.bin", ids, header);
    return error_of([&] { open_llm_c(folder / "a.bin", 10); });
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

// A mapped file would end the process with SIGBUS here.
TEST(TokenShard, AFileThatIsCutShortWhileItIsOpenIsAnErrorWhereItIsMissing) {
  ScratchFolder folder;
  for (const TokenType type : {TokenType::kUint16, TokenType::kUint32}) {
    if (type == TokenType::kUint16) write_ids<std::uint16_t>(folder / "a.bin", counting(9000));
    else write_ids<std::uint32_t>(folder / "a.bin", counting(9000));
    const auto shard = open_headerless(folder / "a.bin", type, 10000);
    std::filesystem::resize_file(folder / "a.bin", 100 * width_of(type));
    std::vector<std::int64_t> out(9000);
    EXPECT_EQ(shard.at(99), 99);
    EXPECT_ERROR(shard.at(100), "a.bin must keep the " + std::to_string(9000 * width_of(type)) +
                                    " bytes that it had when it was opened, got " +
                                    std::to_string(100 * width_of(type)) + " at most: it was cut short since");
    EXPECT_ERROR(shard.copy(0, 9000, out.data()), "cut short since");
    std::filesystem::resize_file(folder / "a.bin", 0);
    EXPECT_ERROR(shard.at(0), "cut short since");
  }
}

TEST(TokenShard, OutlivesTheNameOfItsFile) {
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "a.bin", counting(5));
  const auto shard = open_headerless(folder / "a.bin", TokenType::kUint16, 10);
  write_ids<std::uint16_t>(folder / "b.bin", counting(2));
  std::filesystem::rename(folder / "b.bin", folder / "a.bin");
  EXPECT_EQ(shard.at(4), 4);
}

TEST(TokenSequence, MayHaveMoreShardsThanFilesAreOpenAtOnceAsARule) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  if (before.rlim_max < 300) GTEST_SKIP() << "the system allows no more";
  rlimit few = before;
  few.rlim_cur = 100;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "a.bin", counting(3));
  std::vector<TokenShard> shards;
  const std::string error = error_of([&] {
    for (int index = 0; index < 200; ++index)
      shards.push_back(open_headerless(folder / "a.bin", TokenType::kUint16, 3));
  });
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(error, "no error");
  EXPECT_EQ(TokenSequence(std::move(shards)).size(), 600);
}

TEST(TokenSequence, ReadsAcrossShards) {
  ScratchFolder folder;
  std::vector<TokenShard> shards;
  std::int64_t first = 0;
  for (const std::int64_t count : {3, 1, 4}) {
    write_ids<std::uint16_t>(folder / std::to_string(first), counting(count, first));
    shards.push_back(open_headerless(folder / std::to_string(first), TokenType::kUint16, 100));
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
