// Where tensors live: devices by name, what is sent to them and read from them, and what their failures look like.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <exception>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmhead {

/// The device of that name: cpu, cuda or cuda:N, mps, any other that PyTorch has, or auto: the first accelerator that
/// is there, else the CPU. Asks the machine, so a process that is to fork must not call it for another than the CPU.
/// Throws `[who] ...` where there is no such device.
c10::Device find_device(const std::string& name, std::string_view who);

/// Devices by their names, between commas, each once. A kind that is named without a number is all of that kind that
/// are there, and auto all of the first kind. Throws as `find_device` does.
std::vector<std::string> find_devices(const std::string& names, std::string_view who);

/// `tensor` on `device`; from the CPU through pinned memory and without waiting for the device. Itself where it is
/// there already, or undefined.
at::Tensor on_device(const at::Tensor& tensor, c10::Device device);

/// The same of each of them, in its place.
void move_to(c10::Device device, std::initializer_list<at::Tensor*> tensors);

/// The values of 0-dim tensors of one type and device, by one wait for it.
std::vector<double> read_numbers(const std::vector<at::Tensor>& tensors);

/// What to say of an exception of PyTorch's that comes from a device: out of its memory, or without an operator, which
/// is named; nothing of any other.
std::optional<std::string> device_failure(const std::exception& error);

}  // namespace lmhead
