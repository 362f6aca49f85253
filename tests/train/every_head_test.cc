// Every head in the list is trained, stopped and gone on with: bit for bit the same run.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/heads/head_bench.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

struct Killed {};

TEST(EveryHead, LearnsAndResumesExactly) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  int count = 0;
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(16)) {
      Json json = tiny_configuration(scratch / "data");
      json["model"]["num_hidden_layers"] = kBenchLayers;
      json["model"]["tie_word_embeddings"] = one.tied;
      json["head"] = one.options;
      json["head"]["type"] = kind.type;
      json["training"]["steps"] = 12;
      json["training"]["checkpoint_every"] = 7;
      json["training"]["validate_every"] = 6;
      json["training"]["precision"] = count % 2 == 0 ? "float32" : "bfloat16";
      json["data"]["micro_batches"] = count % 2 == 0 ? 2 : 1;
      SCOPED_TRACE(json["head"].dump());
      const auto folder = [&](const char* name) { return scratch / (std::to_string(count) + name); };
      EXPECT_TRUE(make_trainer(json, folder("whole")).run());
      const auto kill = [](const StepRecord& record) {
        if (record.step == 8) throw Killed();
      };
      EXPECT_THROW(make_trainer(json, folder("killed")).run({.on_step = kill}), Killed);
      EXPECT_EQ(make_trainer(json, folder("killed")).resumed_step(), 7);
      EXPECT_TRUE(make_trainer(json, folder("killed")).run());
      const std::vector<Json> log = figures_of(folder("whole"));
      EXPECT_EQ(log, figures_of(folder("killed")));
      for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
        const auto path = std::filesystem::path("checkpoints") / "step-00000012" / file;
        EXPECT_TRUE(read_file(folder("whole") / path) == read_file(folder("killed") / path)) << file;
      }
      EXPECT_LT(log.back()["validation"]["loss"].get<double>(), std::log(64.0) + 0.5);
      EXPECT_LT(log.back()["validation"]["loss"].get<double>(), log[5]["validation"]["loss"].get<double>() + 0.05);
      ++count;
    }
}

}  // namespace
}  // namespace lmhead
