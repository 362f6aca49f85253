#include "lmhead/base/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <new>
#include <stdexcept>
#include <vector>

#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// A /proc and a /sys of the test's own.
class System {
 public:
  System() { write("proc/meminfo", "MemTotal: 64 kB\nMemAvailable:   8192 kB\nSwapFree: 9999999 kB\n"); }
  void write(const fs::path& file, const std::string& text) {
    fs::create_directories((folder_ / file.string()).parent_path());
    write_text(folder_ / file.string(), text);
  }
  std::uint64_t kib() const { return available_memory(folder_.path()).value() / 1024; }

 private:
  ScratchFolder folder_;
};

TEST(AvailableMemory, IsTheLeastOfMachineAndControlGroups) {
  System system;
  EXPECT_EQ(system.kib(), 8192);
  system.write("proc/self/cgroup", "0::/user/job\n");
  const std::string group = "sys/fs/cgroup/user/job/";
  system.write(group + "memory.max", "max\n");
  system.write(group + "memory.current", "1048576\n");
  EXPECT_EQ(system.kib(), 8192);
  system.write(group + "memory.max", "3145728\n");
  EXPECT_EQ(system.kib(), 2048);
  system.write(group + "memory.stat", "anon 5\ninactive_file 524288\nactive_file 262144\n");
  EXPECT_EQ(system.kib(), 2048 + 768);  // the cache of files makes room
  system.write("sys/fs/cgroup/user/memory.max", "1048576\n");
  system.write("sys/fs/cgroup/user/memory.current", "2097152\n");
  EXPECT_EQ(system.kib(), 0);  // a group around it is full
}

TEST(AvailableMemory, KnowsControlGroupsOfTheFirstVersion) {
  System system;
  system.write("proc/self/cgroup", "12:cpu,cpuacct:/other\n5:memory:/job\n0::/\n");
  system.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  system.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
  EXPECT_EQ(system.kib(), 8192);
  system.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4194304\n");
  system.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "3145728\n");
  system.write("sys/fs/cgroup/memory/job/memory.stat", "total_inactive_file 1048576\n");
  EXPECT_EQ(system.kib(), 2048);
}

TEST(AvailableMemory, IsUnknownWhereNothingSays) {
  const ScratchFolder nothing;
  EXPECT_FALSE(available_memory(nothing.path()));
}

TEST(AvailableMemory, EndsAtTheProcessesOwnLimit) {
  ASSERT_TRUE(available_memory());
  rlimit before{};
  ::getrlimit(RLIMIT_DATA, &before);
  const rlimit limit{1, before.rlim_max};
  ::setrlimit(RLIMIT_DATA, &limit);
  const auto left = available_memory();
  ::setrlimit(RLIMIT_DATA, &before);
  EXPECT_EQ(left, 0);
}

TEST(RequireMemory, SaysWhatIsNeededAndWhatIsThere) {
  EXPECT_NO_THROW(require_memory("train", "a byte", 1));
  EXPECT_ERROR(require_memory("train", "the model", 3.5 * 1024 * 1024 * 1024 * 1024 * 1024),
               "[train] memory must hold the model, at least 3.5 PiB, got ");
  EXPECT_EQ(format_bytes(1023), "1023 bytes");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
}

TEST(MemoryFailure, IsKnownOfEveryAllocator) {
  EXPECT_TRUE(is_memory_failure(std::bad_alloc()));
  EXPECT_TRUE(is_memory_failure(std::length_error("vector")));
  EXPECT_TRUE(is_memory_failure(std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried to")));
  EXPECT_FALSE(is_memory_failure(std::runtime_error("mat1 and mat2 shapes cannot be multiplied")));
}

}  // namespace
}  // namespace lmhead
