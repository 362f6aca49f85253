// Dispatcher operations by name.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace lmhead {

/// The operation of this name, to be called with the arguments of a function of the same signature.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operation(const char* name, Signature*) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace lmhead
