// Tensors on disk that are used as if they were in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <vector>

namespace lmhead {

/// Where files go that nobody asked for: $TMPDIR, else /var/tmp, which lies on a disk where /tmp may be memory.
std::filesystem::path scratch_directory();

/// A contiguous tensor of the CPU: in memory, or where `folder` is given in a file there that has no name and goes with
/// the tensor. Of such a file the system keeps in memory what there is room for, and takes the rest away. Throws where
/// the disk has no room for all of it.
at::Tensor scratch_tensor(const std::vector<std::int64_t>& shape, at::ScalarType type,
                          const std::optional<std::filesystem::path>& folder);

}  // namespace lmhead
