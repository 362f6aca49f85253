#include "lmhead/base/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <limits>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// The number behind `key` in a file of lines "KEY NUMBER", in its own unit.
std::optional<std::uint64_t> number_after(const fs::path& file, std::string_view key) {
  std::ifstream text(file);
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::string first;
    std::uint64_t number = 0;
    if (words >> first >> number && first == key) return number;
  }
  return std::nullopt;
}

/// The one number that a file holds; "max" is none.
std::optional<std::uint64_t> number_in(const fs::path& file) {
  std::ifstream text(file);
  std::uint64_t number = 0;
  if (text >> number) return number;
  return std::nullopt;
}

std::uint64_t less(std::uint64_t all, std::uint64_t used) { return all > used ? all - used : 0; }

/// What a control group leaves; its file cache is given up when memory is wanted.
std::optional<std::uint64_t> left_in_group(const fs::path& folder, const char* limit_name, const char* usage_name,
                                           const char* cache_prefix) {
  const auto limit = number_in(folder / limit_name), usage = number_in(folder / usage_name);
  if (!limit || !usage) return std::nullopt;
  std::uint64_t cache = 0;
  for (const char* list : {"inactive_file", "active_file"})
    cache += number_after(folder / "memory.stat", std::string(cache_prefix) + list).value_or(0);
  return less(*limit, less(*usage, cache));
}

/// The group of this process and all groups around it, of version 2 and of the memory controller of version 1.
std::optional<std::uint64_t> left_in_groups(const fs::path& system) {
  std::optional<std::uint64_t> least;
  const auto take = [&](const std::optional<std::uint64_t>& left) {
    if (left) least = std::min(*left, least.value_or(*left));
  };
  std::ifstream lines(system / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {  // "0::/a/b" or "5:cpu,memory:/a/b"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool is_second_version = controllers == ",,";
    if (!is_second_version && controllers.find(",memory,") == controllers.npos) continue;
    const fs::path root = system / (is_second_version ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    // Inside a container the path may be that of the host; the root is then its own group.
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      take(is_second_version ? left_in_group(root / group, "memory.max", "memory.current", "")
                             : left_in_group(root / group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"));
      if (group.empty()) break;
    }
  }
  return least;
}

/// What a limit of this process leaves, given the pages that it uses.
std::optional<std::uint64_t> left_of_limit(decltype(RLIMIT_AS) resource, std::optional<std::uint64_t> used_kib) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || !used_kib) return std::nullopt;
  return less(std::uint64_t(limit.rlim_cur), *used_kib * 1024);
}

}  // namespace

std::optional<std::uint64_t> available_memory(const fs::path& system) {
  std::optional<std::uint64_t> machine = number_after(system / "proc/meminfo", "MemAvailable:");
  if (machine) *machine *= 1024;
  const fs::path status = system / "proc/self/status";
  std::optional<std::uint64_t> least;
  for (const auto& left : {machine, left_in_groups(system), left_of_limit(RLIMIT_AS, number_after(status, "VmSize:")),
                           left_of_limit(RLIMIT_DATA, number_after(status, "VmData:"))})
    if (left) least = std::min(*left, least.value_or(*left));
  return least;
}

std::string format_bytes(double bytes) {
  constexpr std::array kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  char text[48];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text;
}

void require_memory(const std::string& who, const std::string& what, double bytes) {
  const auto available = available_memory();
  require(!available || bytes <= double(*available), who, "memory must hold ", what, ", at least ", format_bytes(bytes),
          ", got ", format_bytes(double(available.value_or(0))));
}

bool is_memory_failure(const std::exception& error) {
  // A size beyond all memory makes a container throw the second.
  if (dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const std::length_error*>(&error)) return true;
  const std::string_view text = error.what();
  // ATen's allocator throws a common error of its own, and so does its arithmetic on sizes.
  constexpr std::array kWords = {"can't allocate memory", "not enough memory", "out of memory",
                                 "Storage size calculation overflowed", "std::bad_alloc"};
  return std::any_of(kWords.begin(), kWords.end(), [&](const char* words) { return text.find(words) != text.npos; });
}

}  // namespace lmhead
