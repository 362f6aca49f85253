// How operations take autocast: features and weights in its type, and autocast off within.
#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace lmhead {

/// While this lives autocast is off on the device of `like`, and tensors can be cast to its type there.
class AutocastType {
 public:
  explicit AutocastType(const at::Tensor& like)
      : device_(like.device().type()), off_(at::autocast::get_autocast_dispatch_key_from_device_type(device_)) {}
  at::Tensor operator()(const at::Tensor& tensor) const {
    return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device_), tensor, device_);
  }

 private:
  c10::DeviceType device_;
  c10::impl::ExcludeDispatchKeyGuard off_;
};

/// `call` of arguments whose features and weight are in the type of autocast, which is off meanwhile.
template <class Arguments, class Call>
auto in_autocast_type(Arguments arguments, const Call& call) {
  const AutocastType cast(arguments.hidden);
  arguments.hidden = cast(arguments.hidden);
  arguments.map.weight = cast(arguments.map.weight);
  return call(arguments);
}

}  // namespace lmhead
