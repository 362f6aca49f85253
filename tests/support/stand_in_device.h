// A device that no machine lacks: PyTorch's PrivateUse1 backend over CPU memory, as strict as a GPU.
//
// Its pointers carry a mark that makes them point nowhere, so that reading one as memory of the CPU ends the program;
// an operation that is given a tensor of the CPU, or of the other of its two devices, beside its own throws; nothing
// random can be drawn on it; a process that was forked from one that has used it cannot. What ATen has no composition
// for is computed by the CPU's kernel on the same memory. Programs load the library before their own (LD_PRELOAD),
// Python by torch.ops.load_library; LMHEAD_STAND_IN_MEMORY limits their bytes on it and is what each
// of the two says that it has (8 GiB without), LMHEAD_STAND_IN_WITHOUT names an operator that it lacks.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <string>

namespace lmhead::test {

/// "stand_in:0", the current device unless another is set, or "stand_in:1".
c10::Device stand_in_device(c10::DeviceIndex index = 0);

/// How often the program has waited for the device so far: a number read, or a tensor copied to the CPU.
std::int64_t stand_in_waits();

/// What a kernel of the current device finds behind a pointer; throws for those of other memory.
void* memory_of_stand_in(const void* pointer);

/// The most bytes that both devices together held during `work`, beyond those before it.
std::int64_t most_bytes_on_stand_in(const std::function<void()>& work);

/// While this lives both devices together hold at most so many bytes more than now.
class StandInMemory {
 public:
  explicit StandInMemory(std::int64_t bytes);
  ~StandInMemory();
  StandInMemory(const StandInMemory&) = delete;
  StandInMemory& operator=(const StandInMemory&) = delete;

 private:
  std::int64_t before_;
};

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
