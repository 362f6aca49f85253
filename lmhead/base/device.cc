#include "lmhead/base/device.h"

#include <ATen/ops/stack.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::array kAccelerators = {c10::DeviceType::CUDA, c10::DeviceType::MPS, c10::DeviceType::XPU,
                                      c10::DeviceType::PrivateUse1};

/// How many of a kind this PyTorch finds here; 0 where it was built without.
int count_of(c10::DeviceType type) {
  return c10::impl::hasDeviceGuardImpl(type) ? c10::impl::getDeviceGuardImpl(type)->deviceCount() : 0;
}

std::string known_devices() {
  std::string all = "cpu";
  for (const c10::DeviceType type : kAccelerators) {
    const std::string name = c10::DeviceTypeName(type, /*lower_case=*/true);
    const int count = count_of(type);
    if (count > 0) all += ", " + name;
    for (int index = 1; index < count; ++index) all += ", " + name + ":" + std::to_string(index);
  }
  return all;
}

}  // namespace

c10::Device find_device(const std::string& name, std::string_view who) {
  if (name == "cpu") return c10::Device(c10::DeviceType::CPU);
  if (name == "auto") {
    for (const c10::DeviceType type : kAccelerators)
      if (count_of(type) > 0) return c10::Device(type, 0);
    return c10::Device(c10::DeviceType::CPU);
  }
  std::optional<c10::Device> device;
  try {
    device = c10::Device(name);
  } catch (const c10::Error&) {  // no name of any device; below it is said in our words
  }
  const bool is_there = device && std::max<int>(device->index(), 0) < (device->is_cpu() ? 1 : count_of(device->type()));
  require(is_there, who, "device must be one that is here (", known_devices(), ") or auto, got \"", name, '"');
  if (device->is_cpu()) return c10::Device(c10::DeviceType::CPU);
  return c10::Device(device->type(), std::max<c10::DeviceIndex>(device->index(), 0));
}

std::vector<std::string> find_devices(const std::string& names, std::string_view who) {
  std::vector<std::string> found;
  std::istringstream parts(names + ",");  // so that a last part that is empty is seen
  for (std::string part; std::getline(parts, part, ',');) {
    const c10::Device device = find_device(part, who);
    const bool is_one = device.is_cpu() || part.find(':') != part.npos;
    for (int index = 0; index < (is_one ? 1 : count_of(device.type())); ++index)
      found.push_back(is_one ? device.str() : c10::Device(device.type(), c10::DeviceIndex(index)).str());
  }
  for (const std::string& device : found)
    require(std::ranges::count(found, device) == 1, who, "devices must be named once each, got ", names);
  return found;
}

at::Tensor on_device(const at::Tensor& tensor, c10::Device device) {
  if (!tensor.defined() || tensor.device() == device) return tensor;
  if (!tensor.is_cpu() || device.is_cpu()) return tensor.to(device);
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

void move_to(c10::Device device, std::initializer_list<at::Tensor*> tensors) {
  for (at::Tensor* tensor : tensors) *tensor = on_device(*tensor, device);
}

std::vector<double> read_numbers(const std::vector<at::Tensor>& tensors) {
  if (tensors.empty()) return {};
  const at::Tensor here = at::stack(tensors).detach().to(at::kDouble).cpu();
  return {here.const_data_ptr<double>(), here.const_data_ptr<double>() + here.numel()};
}

namespace {

enum class FailureKind { kMemory, kOperator };

std::optional<std::string> failure_of(FailureKind kind, std::string_view text) {
  if (kind == FailureKind::kMemory)
    return "[device] the device's memory must hold what was asked for, got an allocation that failed; smaller batches "
           "(data.micro_batches), training.checkpoint_activations or device cpu need less of it";
  // "Could not run 'aten::mm' with arguments from the 'CUDA' backend." and "The operator 'aten::mm' is not currently
  // implemented for the MPS device."
  const std::size_t begin = text.find("'aten::"), end = begin == text.npos ? begin : text.find('\'', begin + 1);
  if (end == text.npos) return std::nullopt;
  return "[device] the device must have the operator " + std::string(text.substr(begin + 1, end - begin - 1)) +
         ", got a PyTorch that has it not there; device cpu works";
}

/// For Python, which knows exceptions of native code by other types.
std::optional<std::string> failure_in_python(bool is_memory, const std::string& text) {
  return failure_of(is_memory ? FailureKind::kMemory : FailureKind::kOperator, text);
}

}  // namespace

std::optional<std::string> device_failure(const std::exception& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error)) return failure_of(FailureKind::kMemory, error.what());
  if (dynamic_cast<const c10::NotImplementedError*>(&error)) return failure_of(FailureKind::kOperator, error.what());
  return std::nullopt;
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.def("_device_failure(bool is_memory, str text) -> str?", failure_in_python);
}

}  // namespace lmhead
