#include "lmhead/kernels/fused_rows.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "lmhead/base/device_memory.h"
#include "lmhead/base/error.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "cuda";
constexpr std::int64_t kFewestChunkBytes = std::int64_t{256} << 20;
constexpr std::int64_t kShareOfMemory = 32;
/// Rows of a chunk are a multiple of this: tiles of products are.
constexpr std::int64_t kRowMultiple = 128;

struct CudaRows {
  LogitRowsLauncher launch = nullptr;
  const char* (*error_text)(int) = nullptr;
};

/// From the folder of this library; without it, no function.
CudaRows load_cuda_rows() {
  Dl_info here{};
  if (::dladdr(reinterpret_cast<const void*>(&load_cuda_rows), &here) == 0) return {};
  const std::string own = here.dli_fname;
  void* library = ::dlopen((own.substr(0, own.rfind('/') + 1) + "liblmhead_cuda.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {};
  const auto find = [&](const char* name) { return ::dlsym(library, name); };
  const auto version = reinterpret_cast<int (*)()>(find("lmhead_cuda_version"));
  if (!version || version() != kLogitRowsVersion) return {};
  return {reinterpret_cast<LogitRowsLauncher>(find("lmhead_cuda_logit_rows")),
          reinterpret_cast<const char* (*)(int)>(find("lmhead_cuda_error_text"))};
}
const CudaRows& cuda_rows() {
  static const CudaRows rows = load_cuda_rows();
  return rows;
}

std::atomic<LogitRowsLauncher> on_host = nullptr;
std::atomic<std::int64_t> chunk_bytes_on_host = 0;

}  // namespace

std::optional<FusedRows> FusedRows::of(const at::Tensor& hidden) {
  const at::ScalarType type = hidden.scalar_type();
  if (type != at::kFloat && type != at::kBFloat16 && type != at::kHalf) return std::nullopt;
  LogitRowsLauncher launch = nullptr;
  if (is_readable(hidden) || hidden.is_privateuseone()) launch = on_host;
  if (hidden.is_cuda()) {
    launch = cuda_rows().launch;
    if (!launch) {
      TORCH_WARN_ONCE(
          "[lmhead] liblmhead_cuda.so is not beside liblmhead.so: the loss is composed of ATen's operations");
    }
  }
  return launch ? std::optional(FusedRows(launch)) : std::nullopt;
}

std::int64_t fused_chunk_bytes(std::optional<std::int64_t> whole_memory) {
  return std::max(kFewestChunkBytes, whole_memory.value_or(0) / kShareOfMemory);
}
std::int64_t fused_chunk_bytes(c10::Device device) {
  const std::int64_t given = chunk_bytes_on_host;
  return given > 0 ? given : fused_chunk_bytes(whole_memory(device));
}

std::int64_t FusedRows::rows_per_chunk(const at::Tensor& hidden, std::int64_t vocab_size) {
  const std::int64_t row = static_cast<std::int64_t>(hidden.element_size()) * std::max<std::int64_t>(1, vocab_size);
  const std::int64_t most = std::max<std::int64_t>(1, fused_chunk_bytes(hidden.device()) / row), size = hidden.size(0);
  if (size <= most) return std::max<std::int64_t>(1, size);
  const std::int64_t alike = tile_sizes::divide_up(size, tile_sizes::divide_up(size, most));
  return std::min(most, tile_sizes::divide_up(alike, kRowMultiple) * kRowMultiple);
}

void FusedRows::run(const at::Tensor& logits, LogitRowsTask task) const {
  task.logits = logits.mutable_data_ptr();
  task.rows = logits.size(0), task.vocab_size = logits.size(1);
  task.storage = logits.scalar_type() == at::kFloat      ? LogitStorage::kFloat
                 : logits.scalar_type() == at::kBFloat16 ? LogitStorage::kBfloat16
                                                         : LogitStorage::kFloat16;
  void* stream = nullptr;
  const c10::Device device = logits.device();
  c10::OptionalDeviceGuard guard;  // a kernel starts on the current device, whatever the stream
  if (!device.is_cpu()) guard.reset_device(device);
  if (!device.is_cpu()) stream = c10::impl::getDeviceGuardImpl(device.type())->getStream(device).native_handle();
  const int error = launch_(task, stream);
  require(error == 0, kWho,
          "the row kernel must start, got: ", cuda_rows().error_text ? cuda_rows().error_text(error) : "an error");
}

FusedRowsOnHost::FusedRowsOnHost(LogitRowsLauncher launch, std::int64_t chunk_bytes) {
  on_host = launch, chunk_bytes_on_host = chunk_bytes;
}
FusedRowsOnHost::~FusedRowsOnHost() { on_host = nullptr, chunk_bytes_on_host = 0; }

bool has_cuda_rows() { return cuda_rows().launch != nullptr; }

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.def("_has_cuda_rows() -> bool", has_cuda_rows);
  library.def("_fused_chunk_bytes(Device device) -> int", [](c10::Device device) { return fused_chunk_bytes(device); });
}

}  // namespace lmhead
