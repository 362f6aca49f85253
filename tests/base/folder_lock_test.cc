#include "lmhead/base/folder_lock.h"

#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

TEST(FolderLock, IsHeldByOneUntilThatIsGone) {
  const ScratchFolder folder;
  {
    const FolderLock lock(folder / "run", "run", "trains");
    EXPECT_ERROR(FolderLock(folder / "run", "run", "trains"),
                 "run must not be in use, got another process that trains in it");
  }
  FolderLock(folder / "run", "run", "trains");
}

TEST(FolderLock, SaysWhyAFolderCannotBeWrittenTo) {
  const ScratchFolder folder;
  write_text(folder / "file", "");
  EXPECT_ERROR(FolderLock(folder / "file", "run", "trains"), "file must be a folder that can be");
}

}  // namespace
}  // namespace lmhead
