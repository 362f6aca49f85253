#include "lmhead/processes/collectives.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/stack.h>

namespace lmhead::collectives {
namespace {

/// Through the boxed call: releases of PyTorch differ in the C++ type of a group's name.
at::Tensor call(const char* name, torch::jit::Stack arguments) {
  at::NoGradGuard no_grad;
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(arguments);
  return arguments.at(0).toTensor();
}

}  // namespace

void begin_reduction(const at::Tensor& tensor, const std::string& what, const std::string& group) {
  call("_c10d_functional::all_reduce_", {tensor, what, group});
}

at::Tensor begin_scattered_sum(const at::Tensor& tensor, std::int64_t size, const std::string& group) {
  return call("_c10d_functional::reduce_scatter_tensor", {tensor, std::string("sum"), size, group});
}

at::Tensor begin_gather(const at::Tensor& tensor, std::int64_t size, const std::string& group) {
  return call("_c10d_functional::all_gather_into_tensor", {tensor, size, group});
}

at::Tensor begin_broadcast(const at::Tensor& tensor, std::int64_t rank, const std::string& group) {
  return call("_c10d_functional::broadcast", {tensor, rank, group});
}

void wait(const at::Tensor& tensor) { call("_c10d_functional::wait_tensor", {tensor}); }

}  // namespace lmhead::collectives
