#include "lmhead/train/batch_feed.h"

#include <gtest/gtest.h>

#include "tests/support/devices.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

TEST(BatchFeed, GivesEveryPartOfEveryStepInWhateverOrderItIsAskedFor) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json json = tiny_configuration(scratch / "data");
  json["data"]["micro_batches"] = 2;
  const auto source = open_batches(read_options<TrainConfiguration>(json).data, 3, 64);
  std::vector<c10::Device> devices = test::other_devices();
  devices.emplace_back(c10::DeviceType::CPU);
  const std::pair<std::int64_t, std::int64_t> order[] = {{0, 0}, {0, 1}, {1, 0}, {5, 1}, {5, 0}, {5, 1}, {6, 0}};
  for (const c10::Device device : devices) {
    BatchFeed feed(*source, device);
    for (const auto& [step, part] : order) {
      const Batch got = feed.take(step, part), want = source->training_batch(step, part);
      feed.send_next(step, part);
      EXPECT_EQ(got.tokens.device(), device);
      EXPECT_TRUE(got.tokens.cpu().equal(want.tokens)) << step << " " << part << " on " << device;
      EXPECT_TRUE(got.targets.cpu().equal(want.targets)) << step << " " << part << " on " << device;
    }
  }
}

TEST(BatchFeed, SendsWithoutWaitingForTheDevice) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  const auto source = open_batches(read_options<TrainConfiguration>(tiny_configuration(scratch / "data")).data, 3, 64);
  BatchFeed feed(*source, test::stand_in_device());
  const std::int64_t before = test::stand_in_waits();
  for (std::int64_t step = 0; step < 4; ++step) {
    feed.take(step, 0);
    feed.send_next(step, 0);
  }
  EXPECT_EQ(test::stand_in_waits(), before);
}

}  // namespace
}  // namespace lmhead
