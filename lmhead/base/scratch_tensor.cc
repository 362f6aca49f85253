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

fs::path scratch_directory() {
  const char* told = std::getenv("TMPDIR");
  if (told && *told) return told;
  return fs::is_directory("/var/tmp") ? fs::path("/var/tmp") : fs::temp_directory_path();
}

at::Tensor scratch_tensor(const std::vector<std::int64_t>& shape, at::ScalarType type,
                          const std::optional<fs::path>& folder) {
  std::size_t size = c10::elementSize(type);
  for (const std::int64_t length : shape) size *= std::size_t(length);
  if (!folder || size == 0) return at::empty(shape, type);
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
  return at::from_blob(bytes, shape, [size](void* mapped) { ::munmap(mapped, size); }, at::TensorOptions().dtype(type));
}

}  // namespace lmhead
