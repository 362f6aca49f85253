#include "tests/support/stand_in_operations.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/addmm.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/stand_in_device.h"
#include "tests/support/stand_in_memory.h"

namespace lmhead::test {
namespace {

using c10::DataPtr;
using c10::Device;
using c10::IValue;
using c10::Storage;

bool is_ours(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kStandIn; }

at::Tensor tensor_over(Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  at::Tensor tensor =
      at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

/// `pointer` to the memory of `owned`, which lives as long.
Storage storage_over(const Storage& owned, void* pointer, Device device, c10::Allocator* of) {
  return {Storage::use_byte_size_t(), owned.nbytes(), DataPtr(pointer, new Storage(owned), &delete_as<Storage>, device),
          of,
          /*resizable=*/true};
}

at::Tensor on_host(const at::Tensor& ours) {
  const Storage& storage = ours.storage();
  return tensor_over(
      storage_over(storage, unmarked(storage.data()), Device(c10::DeviceType::CPU), c10::GetCPUAllocator()),
      c10::DispatchKey::CPU, ours);
}

/// One operation's tensors on both sides.
class Crossing {
 public:
  /// Where results go that belong to no argument.
  void go_to(Device device) { device_ = device; }

  at::Tensor to_host(const at::Tensor& tensor, const c10::OperatorName& operation) {
    if (!tensor.defined()) return tensor;
    if (!is_ours(tensor)) {
      TORCH_CHECK(tensor.dim() == 0, operation.name, " expects all tensors on one device, got ", tensor.device(),
                  " beside one of stand_in");
      return tensor;
    }
    TORCH_CHECK(crossed_.empty() || tensor.device() == crossed_.front().first.device(), operation.name,
                " expects all tensors on one device, got ", tensor.device(), " beside ",
                crossed_.front().first.device());
    go_to(tensor.device());
    crossed_.emplace_back(tensor, on_host(tensor));
    return crossed_.back().second;
  }

  /// What the operation has done to its arguments: where it resized one, memory and sizes are others.
  void carry_changes() {
    for (auto& [ours, host] : crossed_) {
      if (host.storage().data() != unmarked(ours.storage().data())) {
        const Storage& fresh = host.storage();
        ours.storage().unsafeGetStorageImpl()->set_data_ptr(given_to(ours.device(), fresh));
        ours.storage().unsafeGetStorageImpl()->set_nbytes(fresh.nbytes());
      }
      if (host.sizes() != ours.sizes() || host.strides() != ours.strides())
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }

  /// An argument itself, a view of one, or something new.
  at::Tensor to_device(const at::Tensor& result) {
    if (!result.defined()) return result;
    for (const auto& [ours, host] : crossed_) {
      if (result.is_same(host)) return ours;
      if (result.storage().data() && result.storage().data() == host.storage().data())
        return tensor_over(ours.storage(), c10::DispatchKey::PrivateUse1, result);
    }
    const Storage& made = result.storage();
    return tensor_over(
        {Storage::use_byte_size_t(), made.nbytes(), given_to(device_, made), stand_in_allocator(), /*resizable=*/true},
        c10::DispatchKey::PrivateUse1, result);
  }

 private:
  Device device_ = current_device();
  std::vector<std::pair<at::Tensor, at::Tensor>> crossed_;
};

/// `value` with its tensors as `cross` makes them; a device becomes the CPU.
template <class Cross>
IValue crossed(const IValue& value, const Cross& cross) {
  if (value.isTensor()) return cross(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(cross(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
      list.push_back(tensor ? std::optional(cross(*tensor)) : std::nullopt);
    return list;
  }
  if (value.isDevice()) return Device(c10::DeviceType::CPU);
  return value;
}

// ---- operations ----

std::atomic<std::int64_t> waits = 0;

std::mutex lacking_mutex;
std::multiset<std::string> lacking = [] {
  std::multiset<std::string> named;
  if (const char* given = std::getenv("LMHEAD_STAND_IN_WITHOUT")) named.insert(given);
  return named;
}();
bool lacks(const std::string& operation) {
  const std::lock_guard lock(lacking_mutex);
  return lacking.contains(operation);
}

/// Those whose results have a size that only the device knows, or are no tensor.
bool waits_for(const std::string& operation) {
  static const std::set<std::string> all = {"aten::_local_scalar_dense", "aten::equal",    "aten::nonzero",
                                            "aten::masked_select",       "aten::_unique2", "aten::unique_dim",
                                            "aten::unique_consecutive"};
  return all.contains(operation);
}

void compute_on_host(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const c10::OperatorName& name = operation.operator_name();
  TORCH_CHECK(!operation.hasTag(at::Tag::nondeterministic_seeded), "nothing is drawn on stand_in, got ", name.name);
  open_device();
  // Only ATen's: an operation of somebody else reads memory in ways that nobody here knows.
  TORCH_CHECK_NOT_IMPLEMENTED(name.name.starts_with("aten::") && !lacks(name.name), "Could not run '", name.name,
                              "' with arguments from the 'PrivateUse1' backend.");
  if (waits_for(name.name)) ++waits;
  Crossing crossing;
  const std::size_t arguments = operation.schema().arguments().size(), results = operation.schema().returns().size();
  for (std::size_t index = stack->size() - arguments; index < stack->size(); ++index) {
    IValue& argument = (*stack)[index];
    if (argument.isDevice() && argument.toDevice().has_index()) crossing.go_to(argument.toDevice());
    argument = crossed(argument, [&](const at::Tensor& tensor) { return crossing.to_host(tensor, name); });
  }
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    operation.callBoxed(stack);
  }
  crossing.carry_changes();
  for (std::size_t index = stack->size() - results; index < stack->size(); ++index)
    (*stack)[index] = crossed((*stack)[index], [&](const at::Tensor& tensor) { return crossing.to_device(tensor); });
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<Device> given, std::optional<bool>) {
  const Device device = given && given->has_index() ? *given : current_device();
  const caffe2::TypeMeta dtype = c10::scalarTypeToTypeMeta(type.value_or(at::kFloat));
  std::size_t elements = 1;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis)
    elements = sizes[axis] == 0 || elements == 0 ? 0 : elements + std::size_t((sizes[axis] - 1) * strides[axis]);
  const std::size_t bytes = elements * dtype.itemsize();
  Storage storage(Storage::use_byte_size_t(), bytes, allocate_on(device, bytes), stand_in_allocator(),
                  /*resizable=*/true);
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dtype);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout> layout,
                 std::optional<Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat>) {
  std::vector<std::int64_t> strides(sizes.size());
  std::int64_t stride = 1;
  for (std::size_t axis = sizes.size(); axis-- > 0; stride *= std::max<std::int64_t>(sizes[axis], 1))
    strides[axis] = stride;
  return empty_strided(sizes, strides, type, layout, device, pin);
}

/// Where ATen keeps zeros without memory for them (in forward mode), ours have memory.
at::Tensor zeros(at::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout> layout,
                 std::optional<Device> device, std::optional<bool> pin) {
  return empty(sizes, type, layout, device, pin, std::nullopt).zero_();
}

/// Between the two sides and within ours.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (!is_ours(to) && !(non_blocking && to.is_pinned())) ++waits;
  at::Tensor host = is_ours(to) ? on_host(to) : to;
  at::AutoDispatchBelowADInplaceOrView guard;
  host.copy_(is_ours(from) ? on_host(from) : from);
  return to;
}
at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

/// As on CUDA: factors of one 16-bit type, what they are added to in float32 or as they are, the sum in float32.
at::Tensor& add_wide_product(const at::Tensor& to, const at::Tensor& left, const at::Tensor& right, at::ScalarType type,
                             const at::Scalar& beta, const at::Scalar& alpha, at::Tensor& out) {
  const at::ScalarType narrow = left.scalar_type();
  TORCH_CHECK(right.scalar_type() == narrow && (narrow == at::kBFloat16 || narrow == at::kHalf) && type == at::kFloat &&
                  out.scalar_type() == type && (to.scalar_type() == type || to.scalar_type() == narrow),
              "addmm.dtype_out expects factors of one 16-bit type and a sum in float32");
  return at::addmm_out(out, to.to(type), left.to(type), right.to(type), beta, alpha);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute_on_host>());
}
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_efficientzerotensor", &zeros);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("addmm.dtype_out", &add_wide_product);
}

}  // namespace

std::int64_t stand_in_waits() { return waits; }
void note_wait() { ++waits; }

StandInWithout::StandInWithout(const std::string& operation) : operation_(operation) {
  const std::lock_guard lock(lacking_mutex);
  lacking.insert(operation_);
}
StandInWithout::~StandInWithout() {
  const std::lock_guard lock(lacking_mutex);
  lacking.erase(lacking.find(operation_));
}

}  // namespace lmhead::test
