// A small dataset, a small configuration and what there is to compare of two runs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/files.h"
#include "lmhead/base/random.h"
#include "lmhead/train/trainer.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {

/// Writes a dataset whose next token depends on the last, with noise: something to learn within some steps.
inline void write_dataset(const std::filesystem::path& folder, const std::string& content_hash = "content",
                          const std::string& tokenizer_hash = "bytes") {
  make_directory(folder);
  Json splits = Json::object();
  for (const char* split : {"train", "validation"}) {
    const std::int64_t count = split[0] == 't' ? 4000 : 400;
    RandomStream stream(0, split);
    std::vector<std::int64_t> ids = {1};
    while (std::int64_t(ids.size()) < count)
      ids.push_back(stream.uniform() < 0.2 ? std::int64_t(stream.below(64)) : (ids.back() * 5 + 3) % 64);
    const std::string file = std::string(split) + ".bin";
    write_ids<std::uint16_t>(folder / file, ids);
    splits[split] = {{"file", file},
                     {"tokens", count},
                     {"bytes", 2 * count},
                     {"documents", 1},
                     {"sha256", sha256_of(folder / file)}};
  }
  write_text(folder / "dataset.json", Json{{"format", "lmhead-dataset"},
                                           {"version", 1},
                                           {"vocab_size", 64},
                                           {"token_type", "uint16"},
                                           {"tokenizer", nullptr},
                                           {"tokenizer_hash", tokenizer_hash},
                                           {"end_of_document", nullptr},
                                           {"splits", splits},
                                           {"content_hash", content_hash}}
                                          .dump());
}

/// Width 16, one layer, 64 classes; checkpoints at 7, 14, ... which divide neither 17 nor 40.
inline Json tiny_configuration(const std::filesystem::path& dataset) {
  return {
      {"data", {{"path", dataset.string()}, {"sequence_length", 16}, {"batch_size", 4}, {"validation_tokens", 128}}},
      {"model", {{"hidden_size", 16}, {"num_hidden_layers", 1}, {"num_attention_heads", 2}, {"intermediate_size", 24}}},
      {"optimizer", {{"learning_rate", 0.01}}},
      {"schedule", {{"warmup_steps", 4}}},
      {"training", {{"steps", 40}, {"threads", 1}, {"validate_every", 10}, {"checkpoint_every", 7}}}};
}

inline Trainer make_trainer(const Json& json, const std::filesystem::path& folder) {
  const auto configuration = read_options<TrainConfiguration>(json);
  return Trainer(configuration, write_options(configuration), folder);
}

/// A run's log without what a clock says.
inline std::vector<Json> figures_of(const std::filesystem::path& run_folder) {
  std::vector<Json> lines = read_log(run_folder);
  for (Json& line : lines) {
    for (const char* key : {"tokens_per_second", "wall_seconds", "measure_seconds"}) line.erase(key);
    if (line.contains("head_gradient")) line["head_gradient"].erase("seconds_per_step");
  }
  return lines;
}

}  // namespace lmhead
