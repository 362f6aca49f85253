#include "lmhead/data/dataset.h"

#include <sys/stat.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "data_fixtures.h"
#include "lmhead/base/options.h"

namespace lmhead {
namespace {

/// A valid folder with a sidecar: 40 training and 20 validation tokens, ids below 50.
Json write_dataset(const ScratchFolder& folder) {
  write_ids<std::uint16_t>(folder / "train.bin", counting(40));
  write_ids<std::uint16_t>(folder / "validation.bin", counting(20, 30));
  Json json = Json::parse(R"({
      "format": "lmhead-dataset", "version": 1, "vocab_size": 50, "token_type": "uint16", "tokenizer": null,
      "tokenizer_hash": "bytes", "end_of_document": 49, "content_hash": "c0ffee", "source": {},
      "splits": {
        "train": {"file": "train.bin", "tokens": 40, "bytes": 100, "documents": 2},
        "validation": {"file": "validation.bin", "tokens": 20, "bytes": 30, "documents": 1}}})");
  for (const char* split : {"train", "validation"})
    json["splits"][split]["sha256"] = sha256_of(folder / (std::string(split) + ".bin"));
  write_text(folder / "dataset.json", json.dump());
  return json;
}

TEST(Dataset, ReadsASidecarAndItsSplits) {
  ScratchFolder folder;
  write_dataset(folder);
  const Dataset dataset = open_dataset(folder.path());
  EXPECT_EQ(dataset.vocab_size, 50);
  EXPECT_EQ(dataset.end_of_document, 49);
  EXPECT_FALSE(dataset.tokenizer);
  EXPECT_EQ(dataset.tokenizer_hash, "bytes");
  EXPECT_EQ(dataset.content_hash, "c0ffee");
  EXPECT_EQ(dataset.train.tokens.size(), 40);
  EXPECT_EQ(dataset.validation.tokens.size(), 20);
  EXPECT_DOUBLE_EQ(dataset.train.bytes_per_token.value(), 2.5);
  EXPECT_DOUBLE_EQ(dataset.validation.bytes_per_token.value(), 1.5);
}

TEST(Dataset, AModelMayHaveMoreOutputsThanTheDatasetButNotFewer) {
  ScratchFolder folder;
  write_dataset(folder);
  EXPECT_EQ(open_dataset(folder.path(), 64).vocab_size, 64);
  EXPECT_ERROR(open_dataset(folder.path(), 49), "model.vocab_size must be at least the 50 of");
}

TEST(Dataset, ChecksIdsAgainstItsOwnVocabularyUnderALargerModel) {
  ScratchFolder folder;
  write_dataset(folder);
  write_ids<std::uint16_t>(folder / "train.bin", counting(40, 20));
  const Dataset dataset = open_dataset(folder.path(), 1000);
  std::vector<std::int64_t> out(40);
  EXPECT_ERROR(dataset.train.tokens.copy(0, 40, out.data()),
               "position 30 must be below the vocabulary size 50, got 50");
}

struct Hostile {
  const char* pointer;  // into the sidecar
  const char* value;    // JSON; null pointer: the key is removed
  const char* error;
};

TEST(Dataset, NamesFileAndKeyOfEverythingWrongInASidecar) {
  const Hostile cases[] = {
      {"/format", "\"other\"", "dataset.json: format must be \"lmhead-dataset\", got \"other\""},
      {"/format", nullptr, "dataset.json: format must be there"},
      {"/version", "2", "version must be an integer from 1 to 1, got 2"},
      {"/vocab_size", "0", "vocab_size must be an integer from 1"},
      {"/vocab_size", "\"50\"", "vocab_size must be an integer from 1 to 4294967296, got \"50\""},
      {"/vocab_size", "50.5", "vocab_size must be an integer"},
      {"/vocab_size", "18446744073709551615", "vocab_size must be an integer"},
      {"/vocab_size", nullptr, "vocab_size must be there"},
      {"/token_type", "\"uint8\"", "token_type must be \"uint16\" or \"uint32\", got \"uint8\""},
      {"/token_type", "\"uint32\"", "must hold the 40 tokens that dataset.json says, got 20"},
      {"/token_type", "7", "token_type must be a text, got 7"},
      {"/tokenizer", "[]", "tokenizer must be a text"},
      {"/tokenizer", "\"../tokenizer.json\"", "tokenizer must be the plain name of a file beside it"},
      {"/tokenizer_hash", "null", "tokenizer_hash must be a text"},
      {"/end_of_document", "50", "end_of_document must be an integer from 0 to 49, got 50"},
      {"/end_of_document", "-1", "end_of_document must be an integer from 0 to 49, got -1"},
      {"/content_hash", nullptr, "content_hash must be there"},
      {"/splits", "[]", "splits must be an object, got array"},
      {"/splits/train", "3", "splits.train must be an object, got number"},
      {"/splits/validation", nullptr, "splits.validation must be there"},
      {"/splits/train/file", "\"/etc/passwd\"", "splits.train.file must be the plain name of a file beside it"},
      {"/splits/train/file", "\"..\"", "splits.train.file must be the plain name"},
      {"/splits/train/file", "\"a\\u0000b\"", "splits.train.file must be the plain name"},
      {"/splits/train/file", "\"absent.bin\"", "absent.bin must be readable"},
      {"/splits/train/tokens", "41", "must hold the 41 tokens that dataset.json says, got 40"},
      {"/splits/train/tokens", "0", "splits.train.tokens must be an integer from 1"},
      {"/splits/train/bytes", "-1", "splits.train.bytes must be an integer from 0"},
      {"/splits/validation/documents", "\"one\"", "splits.validation.documents must be an integer"},
      {"/splits/validation/sha256", "\"00\"", "splits.validation.sha256 must be 64 hexadecimal digits"},
      {"/splits/train/sha256", "\"\"", "splits.train.sha256 must be 64 hexadecimal digits, as sha256sum prints them"},
      {"/splits/validation/sha256", nullptr, "splits.validation.sha256 must be there"},
  };
  ScratchFolder folder;
  for (const Hostile& hostile : cases) {
    Json json = write_dataset(folder);
    const Json::json_pointer pointer(hostile.pointer);
    if (hostile.value) json[pointer] = Json::parse(hostile.value);
    else json[pointer.parent_pointer()].erase(pointer.back());
    write_text(folder / "dataset.json", json.dump());
    EXPECT_ERROR(open_dataset(folder.path()), hostile.error);
  }
}

TEST(Dataset, RefusesWhatIsNoSidecarAtAll) {
  ScratchFolder folder;
  write_dataset(folder);
  const std::pair<const char*, const char*> cases[] = {
      {"", "must be valid JSON, got an error at byte 1"},
      {"{", "must be valid JSON"},
      {"\"\xff\"", "must be UTF-8, got a malformed sequence at byte 1"},
      {"{\"vocab_size\": 1e999}", "must hold numbers that float64 can"},
      {"{\"version\": 1, \"version\": 1}", "must name a key of an object once, got \"version\" twice"}};
  for (const auto& [text, error] : cases) {
    write_text(folder / "dataset.json", text);
    EXPECT_ERROR(open_dataset(folder.path()), std::string("dataset.json] ") + error);
  }
  write_text(folder / "dataset.json", "[]");
  EXPECT_ERROR(open_dataset(folder.path()), "dataset.json: the whole must be an object, got array");
  std::filesystem::remove(folder / "dataset.json");
  std::filesystem::create_directory(folder / "dataset.json");
  EXPECT_ERROR(open_dataset(folder.path()), "dataset.json must be a file");
  EXPECT_ERROR(open_dataset(folder / "absent"), "path must be the folder of a dataset");
  EXPECT_ERROR(open_dataset(""), "path must be the folder of a dataset, got \"\"");
}

TEST(Dataset, RefusesFilesWhoseSizeIsNotThatOfTheirTokens) {
  ScratchFolder folder;
  write_dataset(folder);
  std::filesystem::resize_file(folder / "train.bin", 78);
  EXPECT_ERROR(open_dataset(folder.path()), "train.bin must hold the 40 tokens that dataset.json says, got 39");
  std::filesystem::resize_file(folder / "train.bin", 79);
  EXPECT_ERROR(open_dataset(folder.path()), "whole ids of 2 bytes, got 79 bytes");
  std::filesystem::resize_file(folder / "train.bin", 0);
  EXPECT_ERROR(open_dataset(folder.path()), "got an empty file");
}

TEST(Dataset, ReadsNanoGptFolders) {
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "train.bin", counting(40));
  EXPECT_ERROR(open_dataset(folder.path(), 40), "val.bin must be readable");
  write_ids<std::uint16_t>(folder / "val.bin", counting(20));
  EXPECT_ERROR(open_dataset(folder.path()), "model.vocab_size must be given where the data has no dataset.json");
  const Dataset dataset = open_dataset(folder.path(), 40);
  EXPECT_EQ(dataset.vocab_size, 40);
  EXPECT_EQ(dataset.train.tokens.size(), 40);
  EXPECT_EQ(dataset.validation.tokens.size(), 20);
  EXPECT_FALSE(dataset.validation.bytes_per_token);
  EXPECT_EQ(dataset.tokenizer_hash, "");
}

TEST(Dataset, ReadsLlmCFoldersWithShardsInOrder) {
  ScratchFolder folder;
  const auto write = [&](const std::string& name, std::int64_t first, std::int32_t count) {
    write_ids<std::uint16_t>(folder / name, counting(count, first), llm_c_header(20240520, 1, count));
  };
  write("fineweb_train_000002.bin", 10, 5);
  write("fineweb_train_000001.bin", 0, 10);
  EXPECT_ERROR(open_dataset(folder.path(), 20), "got no file of the split val");
  write("fineweb_val_000000.bin", 3, 4);
  write_text(folder / "constrain.bin", "not a split");
  const Dataset dataset = open_dataset(folder.path(), 20);
  std::vector<std::int64_t> train(15), validation(4);
  dataset.train.tokens.copy(0, 15, train.data());
  dataset.validation.tokens.copy(0, 4, validation.data());
  EXPECT_EQ(dataset.train.tokens.size(), 15);
  EXPECT_EQ(train, counting(15));
  EXPECT_EQ(validation, counting(4, 3));
}

TEST(Dataset, ReadsNanoGptFoldersWithTheHeaderOfLlmC) {
  ScratchFolder folder;
  write_ids<std::uint16_t>(folder / "train.bin", counting(40), llm_c_header(20240520, 1, 40));
  write_ids<std::uint32_t>(folder / "val.bin", {5, 70000, 7}, llm_c_header(20240801, 7, 3));
  const Dataset dataset = open_dataset(folder.path(), 151936);
  EXPECT_EQ(dataset.train.tokens.size(), 40);
  ASSERT_EQ(dataset.validation.tokens.size(), 3);
  std::vector<std::int64_t> ids(3);
  dataset.validation.tokens.copy(0, 3, ids.data());
  EXPECT_EQ(ids, (std::vector<std::int64_t>{5, 70000, 7}));
  dataset.train.tokens.copy(0, 3, ids.data());
  EXPECT_EQ(ids, counting(3));
}

TEST(Dataset, TakesTheTypeOfHeaderlessIdsFromTheVocabularyOrTheUser) {
  ScratchFolder folder;
  const std::vector<std::int64_t> large = {5, 70000, 7, 151935}, small = counting(40);
  write_ids<std::uint32_t>(folder / "train.bin", large);
  write_ids<std::uint32_t>(folder / "val.bin", large);
  std::vector<std::int64_t> ids(4);
  open_dataset(folder.path(), 151936).train.tokens.copy(0, 4, ids.data());
  EXPECT_EQ(ids, large);
  for (const char* name : {"train.bin", "val.bin"}) write_ids<std::uint32_t>(folder / name, small);
  EXPECT_ERROR(open_dataset(folder.path(), 50),
               "train.bin, read as uint16, must hold ids, got every second one 0 as uint32 has it: "
               "data.token_type=uint32 reads it so, data.token_type=uint16 as it is");
  EXPECT_EQ(open_dataset(folder.path(), 50, TokenType::kUint32).train.tokens.size(), 40);
  EXPECT_EQ(open_dataset(folder.path(), 50, TokenType::kUint16).train.tokens.size(), 80);
  for (const char* name : {"train.bin", "val.bin"}) write_ids<std::uint16_t>(folder / name, small);
  EXPECT_ERROR(open_dataset(folder.path(), 151936), "data.token_type=uint16 says");
  EXPECT_EQ(open_dataset(folder.path(), 151936, TokenType::kUint16).train.tokens.size(), 40);
  EXPECT_ERROR(open_dataset(folder.path(), 20),
               "train.bin: the id at position 20, read as uint16, must be below the vocabulary size 20, got 20");
}

TEST(Dataset, RefusesATypeThatHeaderOrSidecarContradicts) {
  ScratchFolder folder;
  write_dataset(folder);
  EXPECT_ERROR(open_dataset(folder.path(), 50, TokenType::kUint32), "data.token_type must be uint16 as ");
  EXPECT_EQ(open_dataset(folder.path(), 50, TokenType::kUint16).train.tokens.size(), 40);
  std::filesystem::remove(folder / "dataset.json");
  for (const char* name : {"train.bin", "val.bin"})
    write_ids<std::uint16_t>(folder / name, counting(40), llm_c_header(20240520, 1, 40));
  EXPECT_ERROR(open_dataset(folder.path(), 50, TokenType::kUint32), "data.token_type must be uint16 as the header of ");
}

TEST(Dataset, RefusesWhatIsNoFileWhateverTheLayout) {
  const std::pair<std::function<void(const std::filesystem::path&)>, const char*> kinds[] = {
      {[](const auto& path) { ::mkfifo(path.c_str(), 0600); }, "must be a file, got a pipe"},
      {[](const auto& path) { std::filesystem::create_symlink("/dev/zero", path); }, "must be a file, got a device"},
      {[](const auto& path) { std::filesystem::create_directory(path); }, "must be a file, got a folder"},
      {[](const auto& path) { std::filesystem::create_symlink(path, path); }, "must be readable, got: Too many levels"},
      {[](const auto& path) { std::filesystem::create_symlink("nowhere", path); }, "must be readable, got: No such"},
      {[](const auto& path) { write_text(path, ""); }, "must hold at least one token, got an empty file"},
      {[](const auto& path) { write_text(path, "odd"); }, "must hold whole ids of 2 bytes, got 3 bytes"},
  };
  for (const auto& [make, error] : kinds)
    for (const char* name : {"train.bin", "val.bin", "tiny_train.bin", "validation.bin", "dataset.json"}) {
      ScratchFolder folder;
      write_dataset(folder);
      const std::string file = name;
      if (file == "val.bin" || file == "tiny_train.bin") {
        std::filesystem::remove(folder / "dataset.json");
        std::filesystem::rename(folder / "validation.bin", folder / (file == "val.bin" ? "val.bin" : "tiny_val.bin"));
      }
      if (file == "tiny_train.bin") std::filesystem::remove(folder / "train.bin");
      std::filesystem::remove(folder / name);
      make(folder / name);
      std::error_code ignored;
      const bool is_sidecar_text = file == "dataset.json" && std::filesystem::is_regular_file(folder / name, ignored);
      const std::string found = error_of([&] { open_dataset(folder.path(), 50); });
      EXPECT_NE(found.find(file), found.npos) << found;
      EXPECT_NE(found.find(is_sidecar_text ? "must be valid JSON" : error), found.npos) << found;
    }
}

TEST(Dataset, TheNameOfAFolderWithoutSidecarFollowsItsContent) {
  ScratchFolder folder;
  const auto name = [&](std::vector<std::int64_t> train, std::vector<std::int64_t> validation) {
    write_ids<std::uint16_t>(folder / "train.bin", train);
    write_ids<std::uint16_t>(folder / "val.bin", validation);
    return open_dataset(folder.path(), 10000).content_hash;
  };
  const std::string base = name(counting(40), counting(20));
  EXPECT_EQ(base, name(counting(40), counting(20)));
  EXPECT_NE(base, name(counting(40, 1), counting(20)));
  EXPECT_NE(base, name(counting(40), counting(20, 1)));
  EXPECT_NE(base, name(counting(20), counting(40)));
}

}  // namespace
}  // namespace lmhead
