#include "lmhead/base/input_file.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "lmhead/base/files.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

/// A socket that stays in the file system.
void make_socket(const std::filesystem::path& path) {
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = path.string();
  ASSERT_LT(name.size(), sizeof address.sun_path);
  std::copy(name.begin(), name.end(), address.sun_path);
  ASSERT_EQ(::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ::close(descriptor);
}

TEST(InputFile, OnlyARegularFileIsRead) {
  const ScratchFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  make_socket(folder / "socket");
  std::filesystem::create_symlink("/dev/zero", folder / "link");
  const std::pair<std::filesystem::path, const char*> cases[] = {
      {folder / "pipe", "pipe must be a file, got a pipe"},  // nobody will ever write to it
      {folder / "socket", "socket must be a file, got a socket"},
      {folder / "link", "link must be a file, got a device"},
      {"/dev/zero", "/dev/zero must be a file, got a device"},
      {folder.path(), " must be a file, got a folder"},
      {folder / "absent", "absent must be readable, got: No such file"},
  };
  for (const auto& [path, error] : cases) {
    EXPECT_ERROR(InputFile{path}, error);
    EXPECT_ERROR(read_file(path), error);
  }
}

TEST(InputFile, IsReadInPartsWithinWhatWasThere) {
  const ScratchFolder folder;
  write_text(folder / "f", "0123456789");
  const InputFile file(folder / "f");
  EXPECT_EQ(file.read(7, 3), "3456789");
  EXPECT_ERROR(file.read(6, 3), "f must have at most 6 bytes, got 7");
  EXPECT_EQ(file.read(0, 10), "");
  EXPECT_EQ(file.read(0, 11), "");
  char part[4];
  file.read_at(6, part, 4);
  EXPECT_EQ(std::string(part, 4), "6789");
  write_text(folder / "f", "0123456789ab");
  std::string all;
  const auto collect = [&](const void* bytes, std::size_t size) { all.append(static_cast<const char*>(bytes), size); };
  file.read_blocks(collect);
  EXPECT_EQ(all, "0123456789");
  std::filesystem::resize_file(folder / "f", 9);
  EXPECT_ERROR(file.read_at(6, part, 4), "f must keep the 10 bytes that it had when it was opened, got 9 at most");
  EXPECT_ERROR(file.read_blocks(collect), "cut short since");
}

TEST(InputFile, IsReadWholeUpToASize) {
  const ScratchFolder folder;
  write_text(folder / "f", "0123456789");
  EXPECT_EQ(InputFile(folder / "f").size(), 10);
  EXPECT_EQ(InputFile(folder / "f").read(10), "0123456789");
  EXPECT_ERROR(InputFile(folder / "f").read(9), "f must have at most 9 bytes, got 10");
  std::filesystem::resize_file(folder / "f", std::uintmax_t(1) << 40);  // a hole: it takes no room on the disk
  EXPECT_ERROR(read_file(folder / "f"), "f must have at most 4294967296 bytes");
  EXPECT_GT(InputFile("/proc/self/maps").read(1 << 24).size(), 0);  // whose size is said to be 0
}

}  // namespace
}  // namespace lmhead
