#include "lmhead/base/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <set>

#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

/// No file may grow beyond `bytes` while this lives: a write fails as it does on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(ReadFile, GivesEveryByte) {
  const ScratchFolder folder;
  const std::string content = std::string("a\0b\r\n", 5) + std::string(200000, 'x');
  write_text(folder / "f", content);
  EXPECT_EQ(read_file(folder / "f"), content);
  write_text(folder / "f", "");
  EXPECT_EQ(read_file(folder / "f"), "");
}

TEST(ReadFile, NamesWhatCannotBeRead) {
  const ScratchFolder folder;
  EXPECT_ERROR(read_file(folder / "absent"), "absent must be readable, got: No such file");
  EXPECT_ERROR(read_file(folder.path()), "must be a file, got a folder");
}

TEST(AtomicWrite, ReplacesAndLeavesNothingBehind) {
  const ScratchFolder folder;
  write_file_atomic(folder / "f", "one");
  write_file_atomic(folder / "f", "two");
  EXPECT_EQ(read_file(folder / "f"), "two");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"f"}));
}

TEST(AtomicWrite, KeepsTheOldContentWhenTheWriterFails) {
  const ScratchFolder folder;
  write_file_atomic(folder / "f", "old");
  EXPECT_ERROR(replace_file_atomic(folder / "f",
                                   [](const auto& write) {
                                     write("ne", 2);
                                     fail("test", "no more");
                                   }),
               "[test] no more");
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"f"}));
}

TEST(AtomicWrite, KeepsTheOldContentWhenTheDiskIsFull) {
  const ScratchFolder folder;
  write_file_atomic(folder / "f", "old");
  {
    const FileSizeLimit limit(1000);
    EXPECT_ERROR(write_file_atomic(folder / "f", std::string(5000, 'x')), "must be writable, got: File too large");
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"f"}));
}

TEST(AtomicWrite, RefusesAFolderInThePlaceOfTheFile) {
  const ScratchFolder folder;
  make_directory(folder / "f" / "inside");
  EXPECT_ERROR(write_file_atomic(folder / "f", "x"), "must be replaceable");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"f"}));
}

TEST(AtomicDirectory, AppearsWholeAndReplacesWhatStoodThere) {
  const ScratchFolder folder;
  replace_directory_atomic(folder / "d", [&](const fs::path& inside) {
    write_text(inside / "a", "1");
    EXPECT_FALSE(fs::exists(folder / "d"));
  });
  replace_directory_atomic(folder / "d", [&](const fs::path& inside) {
    write_text(inside / "b", "2");
    EXPECT_EQ(names_in(folder / "d"), (std::set<std::string>{"a"}));
  });
  EXPECT_EQ(names_in(folder / "d"), (std::set<std::string>{"b"}));
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"d"}));
}

TEST(AtomicDirectory, KeepsTheOldOneWhenFillingFails) {
  const ScratchFolder folder;
  replace_directory_atomic(folder / "d", [](const fs::path& inside) { write_text(inside / "a", "1"); });
  EXPECT_ERROR(replace_directory_atomic(folder / "d",
                                        [](const fs::path& inside) {
                                          write_text(inside / "b", "2");
                                          fail("test", "no more");
                                        }),
               "[test] no more");
  EXPECT_EQ(names_in(folder / "d"), (std::set<std::string>{"a"}));
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"d"}));
}

TEST(MakeDirectory, MakesParentsAndNamesWhatStandsInTheWay) {
  const ScratchFolder folder;
  make_directory(folder / "a" / "b" / "c");
  EXPECT_TRUE(fs::is_directory(folder / "a" / "b" / "c"));
  make_directory(folder / "a");  // there already
  write_text(folder / "file", "");
  EXPECT_ERROR(make_directory(folder / "file" / "d"), "must be a folder that can be made");
}

TEST(LineLog, AppendsToWhatIsThere) {
  const ScratchFolder folder;
  {
    LineLog(folder / "log").append("one");
  }
  LineLog log(folder / "log");
  log.append("two");
  EXPECT_EQ(read_file(folder / "log"), "one\ntwo\n");  // in the file while the log is still open
  EXPECT_ERROR(LineLog(folder / "absent" / "log"), "must be writable");
}

TEST(LineLog, SaysThatTheDiskIsFull) {
  const ScratchFolder folder;
  LineLog log(folder / "log");
  const FileSizeLimit limit(10);
  EXPECT_ERROR(log.append(std::string(50, 'x')), "must be writable, got: File too large");
}

TEST(MappedFile, ShowsTheBytesAndOutlivesTheName) {
  const ScratchFolder folder;
  write_text(folder / "f", "abcdef");
  const auto file = MappedFile::open(folder / "f");
  fs::remove(folder / "f");
  ASSERT_EQ(file->size(), 6u);
  EXPECT_EQ(std::memcmp(file->data(), "abcdef", 6), 0);
}

TEST(MappedFile, EmptyFilesAndFoldersAreNoAccident) {
  const ScratchFolder folder;
  write_text(folder / "empty", "");
  const auto file = MappedFile::open(folder / "empty");
  EXPECT_EQ(file->size(), 0u);
  EXPECT_EQ(file->data(), nullptr);
  EXPECT_ERROR(MappedFile::open(folder.path()), "must be a file, got a folder");
  EXPECT_ERROR(MappedFile::open(folder / "absent"), "must be readable");
}

}  // namespace
}  // namespace lmhead
