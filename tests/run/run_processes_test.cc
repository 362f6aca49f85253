// Runs in child processes: forked on the CPU, spawned on any other device, one run a device.
#include "lmhead/run/run_processes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "lmhead/run/run.h"
#include "tests/support/devices.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

using namespace test;
namespace fs = std::filesystem;
using Names = std::vector<std::string>;

class RunsInProcesses : public testing::Test {
 protected:
  RunsInProcesses() {
    write_dataset(scratch_ / "data");
    Dl_info library{};
    ::dladdr(reinterpret_cast<const void*>(&stand_in_waits), &library);
    ::setenv("LD_PRELOAD", library.dli_fname, 1);  // so that programs have the device too
  }
  ~RunsInProcesses() override { ::unsetenv("LD_PRELOAD"); }

  static fs::path program() { return fs::read_symlink("/proc/self/exe").parent_path() / "lmhead.native"; }
  Json configuration(const std::string& device, std::int64_t steps = 9) const {
    Json json = tiny_configuration(scratch_ / "data");
    json["training"].update({{"steps", steps}, {"device", device}});
    return json;
  }
  static RunEvent end_of(RunWorkers& workers) {
    for (int patience = 0; patience < 600; ++patience)
      for (const RunEvent& event : workers.wait())
        if (event.end) return event;
    return {99, std::nullopt, 0, "no run ended"};
  }
  std::string device_of(const std::string& folder) const {
    return read_summary(scratch_ / folder)->at("device").get<std::string>();
  }

  const ScratchFolder scratch_;
};

TEST_F(RunsInProcesses, OnADeviceThatThisProcessHasOpenedAreSpawnedOneOnEach) {
  const at::Tensor here = at::ones({2}).to(stand_in_device()) + 1;  // no forked child may use the device from here on
  RunProcesses workers(1, Names{"stand_in:0", "stand_in:1"}, program());
  std::thread([] {}).join();
  workers.start(0, configuration("cpu"), scratch_ / "a");
  workers.start(1, configuration("cpu"), scratch_ / "b");
  EXPECT_THROW(workers.start(2, configuration("cpu"), scratch_ / "c"), Error);
  std::set<std::size_t> ended;
  for (int count = 0; count < 2; ++count) {
    const RunEvent event = end_of(workers);
    EXPECT_EQ(event.end, RunEnd::kFinished) << event.error;
    ended.insert(event.ticket);
  }
  EXPECT_EQ(ended, (std::set<std::size_t>{0, 1}));
  EXPECT_EQ((std::set{device_of("a"), device_of("b")}), (std::set<std::string>{"stand_in:0", "stand_in:1"}));
  EXPECT_EQ(figures_of(scratch_ / "a"), figures_of(scratch_ / "b"));
  workers.start(3, configuration("cpu"), scratch_ / "c");  // devices are free again
  EXPECT_EQ(end_of(workers).end, RunEnd::kFinished);
}

TEST_F(RunsInProcesses, GiveSpawnedTheBitsOfThisProcess) {
  run_training(configuration("cpu"), scratch_ / "here", {});
  RunProcesses workers(1, Names{"cpu"}, program());
  workers.start(0, configuration("cpu"), scratch_ / "spawned");
  EXPECT_EQ(end_of(workers).end, RunEnd::kFinished);
  EXPECT_EQ(figures_of(scratch_ / "spawned"), figures_of(scratch_ / "here"));
}

TEST_F(RunsInProcesses, SpawnedSaveAndGoOnWhereTheyAreStopped) {
  run_training(configuration("stand_in:1", 120), scratch_ / "unbroken", {});
  {
    RunProcesses workers(1, Names{"stand_in:1"}, program());
    workers.start(0, configuration("cpu", 120), scratch_ / "broken");
    while (workers.wait().empty()) continue;
    workers.stop();
    EXPECT_EQ(end_of(workers).end, RunEnd::kStopped);
  }
  EXPECT_EQ(read_summary(scratch_ / "broken")->at("state"), "stopped");
  RunProcesses workers(1, Names{"stand_in:1"}, program());
  workers.start(0, configuration("cpu", 120), scratch_ / "broken");
  EXPECT_EQ(end_of(workers).end, RunEnd::kFinished);
  EXPECT_EQ(figures_of(scratch_ / "broken"), figures_of(scratch_ / "unbroken"));
}

TEST_F(RunsInProcesses, SpawnedSayWhyTheyFail) {
  RunProcesses workers(1, Names{"stand_in:1"}, program());
  Json json = configuration("cpu");
  json["optimizer"]["learning_rate"] = "much";
  workers.start(0, json, scratch_ / "wrong");
  const RunEvent wrong = end_of(workers);
  EXPECT_EQ(wrong.end, RunEnd::kFailed);
  EXPECT_NE(wrong.error.find("learning_rate"), std::string::npos) << wrong.error;
  ::setenv("LMHEAD_STAND_IN_MEMORY", "30000", 1);
  workers.start(1, configuration("cpu"), scratch_ / "large");
  ::unsetenv("LMHEAD_STAND_IN_MEMORY");
  const RunEvent large = end_of(workers);
  EXPECT_EQ(large.end, RunEnd::kFailed);
  EXPECT_TRUE(large.error.starts_with("[device] the device's memory must hold what was asked for")) << large.error;
}

TEST_F(RunsInProcesses, NeedAProgramThatIsThere) {
  RunProcesses workers(1, Names{"stand_in:1"}, scratch_ / "none");
  EXPECT_THROW(workers.start(0, configuration("cpu"), scratch_ / "a"), Error);
  EXPECT_TRUE(workers.wait().empty());
}

}  // namespace
}  // namespace lmhead
