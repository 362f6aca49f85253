// Lines that several processes append to: torn ones, full disks, other writers.
#include "lmhead/base/shared_lines.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "tests/base/file_fixtures.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

using Lines = std::vector<std::string>;

void append(SharedLines& lines, const std::string& line) {
  const SharedLines::Lock lock(lines);
  lines.append(lock, line);
}

TEST(SharedLines, ReadsWhatItsOwnAndOthersAppendOnce) {
  const ScratchFolder scratch;
  SharedLines one(scratch / "below" / "lines"), other(scratch / "below" / "lines");
  EXPECT_EQ(one.read_new(), Lines{});
  append(one, "a");
  append(other, "b");
  EXPECT_EQ(one.read_new(), (Lines{"a", "b"}));
  append(other, "");
  EXPECT_EQ(one.read_new(), Lines{""});
  EXPECT_EQ(other.read_new(), (Lines{"a", "b", ""}));
  write_text(scratch / "below" / "lines", "a\n");
  EXPECT_ERROR(one.read_new(), "must only grow while it is in use, got 2 bytes where there were 5");
}

TEST(SharedLines, NeverAppendsToALineThatIsTorn) {
  const ScratchFolder scratch;
  for (const char* whole : {"", "a\n"})
    for (const std::string& torn : {std::string("b"), std::string(10000, 'x')}) {
      const auto path = scratch / "lines";
      write_text(path, whole + torn);
      SharedLines lines(path);
      EXPECT_EQ(lines.read_new().size(), whole[0] ? 1u : 0u);
      EXPECT_EQ(read_file(path), whole + torn);  // somebody may be writing it
      append(lines, "c");
      EXPECT_EQ(read_file(path), std::string(whole) + "c\n");
      EXPECT_EQ(lines.read_new(), Lines{"c"});
    }
}

TEST(SharedLines, LeavesNothingOfALineThatAFullDiskCutsShort) {
  const ScratchFolder scratch;
  SharedLines lines(scratch / "lines");
  append(lines, "first");
  {
    const FileSizeLimit full(8);
    EXPECT_ERROR(append(lines, "second"), "must be writable");
    EXPECT_EQ(read_file(scratch / "lines"), "first\n");
  }
  append(lines, "third");
  EXPECT_EQ(lines.read_new(), (Lines{"first", "third"}));
}

TEST(SharedLines, WantAFileThatCanBeAppendedTo) {
  const ScratchFolder scratch;
  write_text(scratch / "file", "");
  EXPECT_ERROR(SharedLines::Lock(SharedLines(scratch / "file" / "lines")), "must be");
  EXPECT_ERROR(SharedLines(scratch / "file" / "lines").read_new(), "must be readable");
  EXPECT_ERROR(SharedLines(scratch / ".").read_new(), "must be a file, got a folder");
  ASSERT_EQ(::mkfifo((scratch / "fifo").c_str(), 0600), 0);
  EXPECT_ERROR(SharedLines(scratch / "fifo").read_new(), "must be a file, got a pipe");
  EXPECT_ERROR(SharedLines::Lock(SharedLines(scratch / "fifo")), "must be a regular file");
}

}  // namespace
}  // namespace lmhead
