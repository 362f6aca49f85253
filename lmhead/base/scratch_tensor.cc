#include "lmhead/base/scratch_tensor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"

namespace lmhead {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kOwnPages = std::size_t(1) << 18;  // from this many bytes on

at::Tensor mapped_tensor(void* bytes, std::size_t size, const std::vector<std::int64_t>& shape, at::ScalarType type) {
  return at::from_blob(bytes, shape, [size](void* mapped) { ::munmap(mapped, size); }, at::TensorOptions().dtype(type));
}

/// Its pages go back to the system with it, whatever else the process allocates meanwhile.
at::Tensor memory_tensor(const std::vector<std::int64_t>& shape, at::ScalarType type, std::size_t size) {
  if (size < kOwnPages) return at::empty(shape, type);
  void* bytes = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(bytes != MAP_FAILED, "memory", "must have room for ", format_bytes(double(size)),
          ", got: ", std::strerror(errno));
#ifdef MADV_HUGEPAGE
  ::madvise(bytes, size, MADV_HUGEPAGE);  // fewer faults; where it is refused, all the same
#endif
  return mapped_tensor(bytes, size, shape, type);
}

}  // namespace

fs::path scratch_directory() {
  const char* told = std::getenv("TMPDIR");
  if (told && *told) return told;
  return fs::is_directory("/var/tmp") ? fs::path("/var/tmp") : fs::temp_directory_path();
}

at::Tensor scratch_tensor(const std::vector<std::int64_t>& shape, at::ScalarType type,
                          const std::optional<fs::path>& folder) {
  std::size_t size = c10::elementSize(type);
  for (const std::int64_t length : shape) size *= std::size_t(length);
  if (!folder || size == 0) return memory_tensor(shape, type, size);
  const auto must = [&](bool holds, int error) {
    require(holds, "files", folder->string(), " must have room for ", format_bytes(double(size)),
            " of the head, got: ", std::strerror(error));
  };
  std::string name = (*folder / "lmhead-XXXXXX").string();
  const int descriptor = ::mkostemp(name.data(), O_CLOEXEC);
  must(descriptor >= 0, errno);
  ::unlink(name.c_str());
  // A page that cannot be had when it is written to would be a signal.
  const int error = ::posix_fallocate(descriptor, 0, off_t(size));
  void* bytes = error == 0 ? ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) : MAP_FAILED;
  const int reason = error != 0 ? error : errno;
  ::close(descriptor);
  must(bytes != MAP_FAILED, reason);
  return mapped_tensor(bytes, size, shape, type);
}

}  // namespace lmhead
