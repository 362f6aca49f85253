#include "lmhead/data/recorded_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "data_fixtures.h"
#include "lmhead/base/files.h"

namespace lmhead {
namespace {

Sidecar write_recorded(const ScratchFolder& folder) {
  write_ids<std::uint16_t>(folder / "train.bin", counting(5000));
  write_ids<std::uint16_t>(folder / "validation.bin", counting(20));
  return {.path = folder / "dataset.json",
          .vocab_size = 5000,
          .token_type = TokenType::kUint16,
          .tokenizer = {},
          .tokenizer_hash = "bytes",
          .end_of_document = {},
          .train = {folder / "train.bin", 5000, 1, 1, sha256_of(folder / "train.bin")},
          .validation = {folder / "validation.bin", 20, 1, 1, sha256_of(folder / "validation.bin")},
          .content_hash = "content"};
}

/// Changes one id, and then the file's time to `offset` nanoseconds after what it was.
void change(const std::filesystem::path& path, std::int64_t offset) {
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(20);
    file.put(char(77));
  }
  const std::int64_t nanoseconds = status.st_mtim.tv_nsec + offset;
  const timespec times[2] = {status.st_atim,
                             {status.st_mtim.tv_sec + nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(RecordedFiles, AChangedFileIsRefusedByItsHash) {
  for (const char* name : {"train.bin", "validation.bin"}) {
    const ScratchFolder folder;
    const Sidecar sidecar = write_recorded(folder);
    change(folder / name, 0);
    EXPECT_ERROR(require_recorded_files(sidecar),
                 std::string(name) + " must be the file that dataset.json records, of ");
    EXPECT_FALSE(std::filesystem::exists(folder / "checked.json"));
  }
}

TEST(RecordedFiles, AreReadAgainOnlyWhereSizeOrTimeHaveChanged) {
  const ScratchFolder folder;
  const Sidecar sidecar = write_recorded(folder);
  require_recorded_files(sidecar);
  EXPECT_TRUE(std::filesystem::exists(folder / "checked.json"));
  change(folder / "train.bin", 0);
  require_recorded_files(sidecar);  // what nobody can see without reading
  change(folder / "train.bin", 1);
  EXPECT_ERROR(require_recorded_files(sidecar), "train.bin must be the file that dataset.json records");
}

TEST(RecordedFiles, ATouchedFileIsReadOnceMoreAndANewRecordToo) {
  const ScratchFolder folder;
  Sidecar sidecar = write_recorded(folder);
  require_recorded_files(sidecar);
  const std::string before = read_file(folder / "checked.json");
  write_ids<std::uint16_t>(folder / "train.bin", counting(5000));
  require_recorded_files(sidecar);
  const std::string after = read_file(folder / "checked.json");
  EXPECT_NE(before, after);
  sidecar.train.sha256 = sidecar.validation.sha256;  // prepared anew, with files of the same size and time
  EXPECT_ERROR(require_recorded_files(sidecar), "train.bin must be the file that dataset.json records");
}

TEST(RecordedFiles, WhatIsRememberedMayBeDamagedMissingOrImpossibleToWrite) {
  const ScratchFolder folder;
  Sidecar sidecar = write_recorded(folder);
  for (const char* text : {"", "[]", "{\"train.bin\": 7}", "\xff"}) {
    write_text(folder / "checked.json", text);
    require_recorded_files(sidecar);
    EXPECT_NE(read_file(folder / "checked.json"), text);
  }
  std::filesystem::remove(folder / "checked.json");
  std::filesystem::create_directory(folder / "checked.json");
  require_recorded_files(sidecar);
  sidecar.train.sha256.clear();
  EXPECT_ERROR(require_recorded_files(sidecar), "train.bin must be the file that dataset.json records");
}

}  // namespace
}  // namespace lmhead
