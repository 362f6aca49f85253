#include "lmhead/base/line_log.h"

#include <gtest/gtest.h>

#include "lmhead/base/files.h"
#include "tests/base/file_fixtures.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

TEST(LineLog, AppendsToWhatIsThere) {
  const ScratchFolder folder;
  {
    LineLog(folder / "log").append("one");
  }
  LineLog log(folder / "log");
  log.append("two");
  EXPECT_EQ(read_file(folder / "log"), "one\ntwo\n");  // in the file while the log is still open
  log.sync();
  EXPECT_ERROR(LineLog(folder / "absent" / "log"), "must be writable");
}

TEST(LineLog, NothingOfALineThatTheDiskHasNoRoomForIsLeft) {
  const ScratchFolder folder;
  LineLog log(folder / "log");
  log.append("one");
  {
    const FileSizeLimit limit(10);
    EXPECT_ERROR(log.append(std::string(50, 'x')), "must be writable, got: File too large");
    EXPECT_EQ(read_file(folder / "log"), "one\n");
  }
  log.append("two");
  EXPECT_EQ(read_file(folder / "log"), "one\ntwo\n");
}

TEST(LineLog, NothingIsAppendedToACutLine) {
  const ScratchFolder folder;
  write_text(folder / "log", "one\ntw");
  EXPECT_ERROR(LineLog(folder / "log"), "must end with a whole line, got one that is cut short");
  EXPECT_EQ(read_file(folder / "log"), "one\ntw");
}

TEST(LineLog, NothingIsAppendedToALineThatWasCutSince) {
  const ScratchFolder folder;
  LineLog log(folder / "log");
  log.append("12345");
  std::filesystem::resize_file(folder / "log", 3);
  EXPECT_ERROR(log.append("next"), "must end with a whole line, got one that is cut short");
  EXPECT_EQ(read_file(folder / "log"), "123");
  std::filesystem::resize_file(folder / "log", 0);
  log.append("first");
  EXPECT_EQ(read_file(folder / "log"), "first\n");
}

}  // namespace
}  // namespace lmhead
