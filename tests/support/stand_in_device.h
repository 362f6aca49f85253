// A device that no machine lacks: PyTorch's PrivateUse1 backend over CPU memory, as strict as a GPU.
//
// Its pointers carry a mark that makes them point nowhere, so that reading one as memory of the CPU ends the program;
// an operation that is given a tensor of the CPU beside its own throws; nothing random can be drawn on it. What ATen
// has no composition for is computed by the CPU's kernel on the same memory. Programs load the library before their own
// (LD_PRELOAD), Python by torch.ops.load_library.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

namespace lmhead::test {

/// "stand_in:0".
c10::Device stand_in_device();

/// How often the program has waited for the device so far: a number read, or a tensor copied to the CPU.
std::int64_t stand_in_waits();

/// While this lives the device lacks one operator, such as "aten::mm".
class StandInWithout {
 public:
  explicit StandInWithout(const std::string& operation);
  ~StandInWithout();
  StandInWithout(const StandInWithout&) = delete;
  StandInWithout& operator=(const StandInWithout&) = delete;

 private:
  std::string operation_;
};

}  // namespace lmhead::test
