#include "lmhead/base/device.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "lmhead/base/error.h"
#include "lmhead/base/module.h"
#include "tests/support/devices.h"

namespace lmhead {
namespace {

using namespace test;

std::string message_of(const std::string& name) {
  try {
    find_device(name, "train");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Device, IsFoundByItsName) {
  EXPECT_TRUE(find_device("cpu", "train").is_cpu());
  EXPECT_EQ(find_device("stand_in", "train"), stand_in_device());
  EXPECT_EQ(find_device("stand_in:0", "train"), stand_in_device());
  EXPECT_FALSE(find_device("auto", "train").is_cpu());
}

TEST(Device, OfAKindAreAllThatAreThere) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(find_devices("cpu", "study"), Names{"cpu"});
  EXPECT_EQ(find_devices("stand_in:1", "study"), Names{"stand_in:1"});
  EXPECT_EQ(find_devices("stand_in", "study"), (Names{"stand_in:0", "stand_in:1"}));
  EXPECT_EQ(find_devices("stand_in:1,cpu", "study"), (Names{"stand_in:1", "cpu"}));
  for (const char* wrong : {"cpu,cpu", "stand_in,stand_in:1", "cpu,", "stand_in:2", ""})
    EXPECT_THROW(find_devices(wrong, "study"), Error) << wrong;
}

TEST(Device, ThatIsNotThereIsSaidInOneLine) {
  for (const char* name : {"stand_in:2", "xpu", "gpu", "", "cpu:3", "cuda:99"}) {
    const std::string message = message_of(name);
    EXPECT_TRUE(message.starts_with("[train] device must be one that is here (cpu, ")) << name << ": " << message;
    EXPECT_NE(message.find("stand_in"), message.npos) << message;
    EXPECT_NE(message.find(std::string("got \"") + name + '"'), message.npos) << message;
    EXPECT_EQ(message.find('\n'), message.npos) << message;
  }
}

TEST(Device, GetsTensorsWithoutWaitingAndNumbersBackInOneWait) {
  for (const c10::Device device : other_devices()) {
    const at::Tensor there = on_device(at::arange(6, at::kFloat), device);
    EXPECT_EQ(there.device(), device);
    EXPECT_TRUE(on_device(there, device).is_same(there));
    EXPECT_FALSE(on_device(at::Tensor(), device).defined());
    EXPECT_TRUE(on_device(there, c10::Device(c10::DeviceType::CPU)).equal(at::arange(6, at::kFloat)));
  }
  const std::int64_t before = stand_in_waits();
  const at::Tensor there = on_device(at::arange(6, at::kFloat), stand_in_device());
  EXPECT_EQ(stand_in_waits(), before);
  EXPECT_EQ(read_numbers({there.sum(), there.max()}), (std::vector<double>{15, 5}));
  EXPECT_EQ(stand_in_waits(), before + 1);
  EXPECT_TRUE(read_numbers({}).empty());
}

TEST(Device, WithoutAnOperatorIsSaidWithItsName) {
  const at::Tensor there = at::ones({2, 2}).to(stand_in_device());
  const StandInWithout without("aten::mm");
  try {
    at::mm(there, there);
    FAIL() << "it has the operator";
  } catch (const std::exception& error) {
    EXPECT_EQ(device_failure(error),
              "[device] the device must have the operator aten::mm, got a PyTorch that has it not there; device cpu "
              "works");
  }
}

TEST(Device, OutOfItsMemoryIsSaidInOneLine) {
  const c10::OutOfMemoryError error({__func__, __FILE__, __LINE__}, "CUDA out of memory. Tried to allocate 2.00 GiB");
  const auto failure = device_failure(error);
  ASSERT_TRUE(failure);
  EXPECT_TRUE(failure->starts_with("[device] the device's memory must hold what was asked for")) << *failure;
  EXPECT_FALSE(device_failure(std::runtime_error("[train] steps must be at least 1, got 0")));
}

TEST(Device, HoldsTheSameInitialValues) {
  for (const c10::Device device : other_devices()) {
    const ParameterSource source = fresh_parameters(3);
    const auto make = [&](ParameterKind kind) { return source("w", kind, {4, 3}, normal_initializer(1), {}); };
    const ParameterPtr here = make(ParameterKind::kMatrix), there = make(ParameterKind::kMatrix),
                       constant = make(ParameterKind::kConstant);
    move_parameters({there, constant}, device);
    EXPECT_EQ(there->value.device(), device);
    EXPECT_TRUE(there->value.is_leaf() && there->value.requires_grad() && there->working.is_same(there->value));
    EXPECT_FALSE(constant->value.requires_grad());
    EXPECT_TRUE(there->value.cpu().equal(here->value));
    set_working_type({there}, at::kBFloat16);
    EXPECT_EQ(there->working.device(), device);
  }
}

}  // namespace
}  // namespace lmhead
