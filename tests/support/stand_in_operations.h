// Operations of the stand-in device: the CPU's, on the same memory seen from the host.
#pragma once

namespace lmhead::test {

/// Counts a wait of the host for the device.
void note_wait();

}  // namespace lmhead::test
