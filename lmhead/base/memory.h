// How much memory there is, and what running out of it looks like.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>

namespace lmhead {

/// Bytes that this process may still allocate: the least of what the machine has free or can free (swap aside), what
/// its control groups allow, and what is left of its limits on address space and data. Nothing where none of these is
/// known. `system` is the root under which /proc and /sys are read.
std::optional<std::uint64_t> available_memory(const std::filesystem::path& system = "/");

/// Bytes of freed memory that the C library may keep for what comes next (`run_command`).
constexpr std::int64_t kMostKept = std::int64_t{256} << 20;

/// "1.5 GiB".
std::string format_bytes(double bytes);

/// Throws where `bytes`, which `what` needs, are more than `available_memory()`: `[who] memory must hold WHAT, ...`.
void require_memory(const std::string& who, const std::string& what, double bytes);

/// Whether an exception, ours or a library's, says that memory could not be had.
bool is_memory_failure(const std::exception& error);

}  // namespace lmhead
