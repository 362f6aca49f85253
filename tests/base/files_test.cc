#include "lmhead/base/files.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <set>
#include <thread>

#include "tests/base/file_fixtures.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

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

TEST(AtomicDirectory, IsThereAtEveryMomentWhileItIsReplaced) {
  const ScratchFolder folder;
  const auto replace = [&] {
    replace_directory_atomic(folder / "d", [](const fs::path& inside) { write_text(inside / "a", "1"); });
  };
  replace();
  std::atomic<bool> is_done = false;
  std::int64_t looks = 0, missing = 0;
  std::thread watcher([&] {
    for (; !is_done; ++looks) missing += ::access((folder / "d" / "a").c_str(), F_OK) != 0;
  });
  for (int repeat = 0; repeat < 300; ++repeat) replace();
  is_done = true;
  watcher.join();
  EXPECT_GT(looks, 300);
  EXPECT_EQ(missing, 0);
}

TEST(AtomicDirectory, IsExchangedInTwoStepsWhereOneCannotBe) {
  const ScratchFolder folder;
  make_directory(folder / "d");
  make_directory(folder / "fresh");
  write_text(folder / "d" / "old", "");
  write_text(folder / "fresh" / "new", "");
  detail::exchange_in_two_steps(folder / "fresh", folder / "d");
  EXPECT_EQ(names_in(folder / "d"), (std::set<std::string>{"new"}));
  EXPECT_EQ(names_in(folder / "fresh"), (std::set<std::string>{"old"}));
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"d", "fresh"}));
}

TEST(AtomicDirectory, ASecondRenameThatFailsBringsTheOldOneBack) {
  const ScratchFolder folder;
  make_directory(folder / "d");
  write_text(folder / "d" / "old", "");
  EXPECT_ERROR(detail::exchange_in_two_steps(folder / "absent", folder / "d"), "d must be replaceable, got: No such");
  EXPECT_EQ(names_in(folder / "d"), (std::set<std::string>{"old"}));
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"d"}));
}

TEST(Leftovers, OfKilledProcessesGoAtTheNextReplacement) {
  const ScratchFolder folder;
  for (const char* name : {"f.tmp77", "d.tmp77", "d.old78", "other.tmp77", "f.tmp", "f.tmpx7", "f.tmp7x"})
    make_directory(folder / name);
  make_directory(folder / "d");
  write_text(folder / "f.tmp78", "half");
  write_file_atomic(folder / "f", "whole");
  EXPECT_EQ(names_in(folder.path()),
            (std::set<std::string>{"f", "d", "d.tmp77", "d.old78", "other.tmp77", "f.tmp", "f.tmpx7", "f.tmp7x"}));
  replace_directory_atomic(folder / "d", [](const fs::path&) {});
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"f", "d", "other.tmp77", "f.tmp", "f.tmpx7", "f.tmp7x"}));
}

TEST(Leftovers, OfALivingProcessStay) {
  const ScratchFolder folder;
  replace_file_atomic(folder / "f", [&](const auto& write) {
    write("one", 3);
    remove_leftovers(folder.path(), [](const std::string&) { return true; });
    EXPECT_EQ(names_in(folder.path()).size(), 1u);
  });
  EXPECT_EQ(read_file(folder / "f"), "one");
  replace_directory_atomic(folder / "d", [&](const fs::path& inside) {
    write_text(inside / "a", "");
    remove_leftovers(folder.path(), [](const std::string&) { return true; });
    EXPECT_TRUE(fs::exists(inside / "a"));
  });
}

TEST(Leftovers, WhatWasPushedAsideGoesBackWhereNothingTookItsPlace) {
  const ScratchFolder folder;
  make_directory(folder / "d.old77");
  write_text(folder / "d.old77" / "a", "");
  remove_leftovers(folder.path(), [](const std::string& name) { return name == "d"; });
  EXPECT_EQ(names_in(folder / "d"), (std::set<std::string>{"a"}));
}

TEST(RemoveDirectory, LeavesNothing) {
  const ScratchFolder folder;
  make_directory(folder / "d" / "inside");
  remove_directory_atomic(folder / "d");
  remove_directory_atomic(folder / "absent");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{}));
}

TEST(MakeDirectory, MakesParentsAndNamesWhatStandsInTheWay) {
  const ScratchFolder folder;
  make_directory(folder / "a" / "b" / "c");
  EXPECT_TRUE(fs::is_directory(folder / "a" / "b" / "c"));
  make_directory(folder / "a");  // there already
  write_text(folder / "file", "");
  EXPECT_ERROR(make_directory(folder / "file" / "d"), "must be a folder that can be made");
}

}  // namespace
}  // namespace lmhead
