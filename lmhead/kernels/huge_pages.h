// Large buffers whose first touch is cheap.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// An uninitialised contiguous CPU tensor, in huge pages where it is large and the system has them for who asks. Giving out memory in
/// pages of 4 KiB takes several times as long as writing it.
at::Tensor empty_in_huge_pages(at::IntArrayRef sizes, at::ScalarType type);

}  // namespace lmhead
