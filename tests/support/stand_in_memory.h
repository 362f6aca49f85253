// Memory of the stand-in device, and which process may touch it: pointers that lead nowhere, and what is held.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/Storage.h>

#include <cstddef>

namespace lmhead::test {

constexpr c10::DeviceType kStandIn = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kStandIns = 2;

/// Of this thread.
c10::Device current_device();
/// Makes another the current one, and says which was.
c10::DeviceIndex exchange_current(c10::DeviceIndex index);

/// Memory of the host as a pointer of `device`, which leads nowhere, and back.
void* marked(void* host, c10::Device device);
void* unmarked(const void* device);
/// Whose a pointer is.
c10::Device device_of(const void* pointer);

/// As of CUDA: what a process has opened is closed to its forked children. Throws in one of these.
void open_device();
/// The same of what counts as opening, and does not fail.
void note_opened() noexcept;

/// Memory that is counted as long as it lives; throws as CUDA's allocator does where there is too little.
c10::DataPtr allocate_on(c10::Device device, std::size_t bytes);
/// The memory that an operation has made on the host, given to `device`.
c10::DataPtr given_to(c10::Device device, const c10::Storage& made);
c10::Allocator* stand_in_allocator();

/// Host memory that says of itself that it is pinned.
c10::Allocator* pinned_allocator();
bool is_pinned(const void* pointer);

template <class T>
void delete_as(void* owner) {
  delete static_cast<T*>(owner);
}

}  // namespace lmhead::test
