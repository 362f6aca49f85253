#include "lmhead/train/checkpoint.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <set>

#include "lmhead/models/safetensors.h"
#include "tests/base/file_fixtures.h"
#include "tests/data/data_fixtures.h"
#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// A model whose optimiser has some steps behind it.
struct Subject {
  explicit Subject(std::uint64_t seed, const std::string& type = "muon")
      : model(tiny_options(), HeadSpecification(), 13, seed), parameters(model.parameters()) {
    OptimizerOptions options;
    options.type = type;
    optimizer = make_optimizer(options, parameters);
    for (std::int64_t step = 1; step <= 2; ++step) {
      std::vector<at::Tensor> gradients;
      for (const ParameterPtr& parameter : parameters)
        gradients.push_back(parameter->value.detach() * 0.5 + double(seed + 1));
      optimizer->step(gradients, step, 1);
    }
  }
  bool equals(Subject& other) {
    const NamedTensors mine = optimizer->state(), theirs = other.optimizer->state();
    bool equal = mine.size() == theirs.size();
    for (std::size_t index = 0; equal && index < mine.size(); ++index)
      equal = mine[index].first == theirs[index].first && mine[index].second.equal(theirs[index].second);
    for (std::size_t index = 0; index < parameters.size(); ++index)
      equal = equal && parameters[index]->value.equal(other.parameters[index]->value);
    return equal;
  }
  CausalModel model;
  ParameterList parameters;
  std::unique_ptr<Optimizer> optimizer;
};

TrainingState state_at(std::int64_t step, std::int64_t best = 0) {
  TrainingState state;
  state.step = step;
  state.tokens = step * 64;
  state.wall_seconds = 0.1 + double(step);
  state.best_step = best;
  state.best_validation_loss = best ? 1.0 / 3 : 0;
  state.dataset_hash = "data";
  state.tokenizer_hash = "tokens";
  state.configuration_hash = "configuration";
  state.threads = 2;
  return state;
}

void expect_in(const std::string& part, const std::string& text) { EXPECT_NE(text.find(part), text.npos) << text; }

TEST(Checkpoint, GivesBackEveryBit) {
  const ScratchFolder scratch;
  for (const char* type : {"adamw", "sgd", "muon"}) {
    const CheckpointFolder folder(scratch / type, 2);
    Subject saved(0, type), loaded(1, type);
    folder.save(state_at(12, 5), named_tensors(saved.parameters), saved.optimizer->state());
    EXPECT_FALSE(saved.equals(loaded));
    ASSERT_EQ(folder.newest(), 12);
    const TrainingState state = folder.load(12, stored_parameters(loaded.parameters), *loaded.optimizer);
    EXPECT_TRUE(saved.equals(loaded)) << type;
    EXPECT_EQ(write_options(state), write_options(state_at(12, 5)));
  }
}

TEST(Checkpoint, HoldsOneTensorANameAsOutsidersKnowIt) {
  const ScratchFolder scratch;
  Subject subject(0);
  const CheckpointFolder folder(scratch.path(), 2);
  folder.save(state_at(3), named_tensors(subject.parameters), subject.optimizer->state());
  EXPECT_EQ(names_in(folder.path_of(3)),
            (std::set<std::string>{"checksums", "model.safetensors", "optimizer.safetensors", "state.json"}));
  const auto file = SafetensorsFile::open(folder.path_of(3) / "model.safetensors");
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight",
        "model.layers.0.mlp.gate_proj.weight", "lm_head.weight"})
    EXPECT_TRUE(file.contains(name)) << name;
  EXPECT_FALSE(file.contains("model.layers.0.self_attn.qkv_proj.weight"));
}

TEST(Checkpoint, NewestFewAndBestStay) {
  const ScratchFolder scratch;
  Subject subject(0);
  const CheckpointFolder folder(scratch.path(), 2);
  const std::int64_t best_at[] = {0, 1, 2, 2, 2, 2, 6};  // by step
  for (std::int64_t step = 1; step <= 5; ++step)
    folder.save(state_at(step, best_at[step]), named_tensors(subject.parameters), subject.optimizer->state());
  EXPECT_EQ(names_in(scratch.path()),
            (std::set<std::string>{"step-00000002", "step-00000004", "step-00000005", "best.json"}));
  EXPECT_EQ(Json::parse(read_file(scratch / "best.json")), (Json{{"step", 2}, {"validation_loss", 1.0 / 3}}));
  folder.save(state_at(6, best_at[6]), named_tensors(subject.parameters), subject.optimizer->state());
  EXPECT_EQ(names_in(scratch.path()), (std::set<std::string>{"step-00000005", "step-00000006", "best.json"}));
}

TEST(Checkpoint, LeftoversOfAKilledSaveAreNoCheckpointsAndGo) {
  const ScratchFolder scratch;
  Subject subject(0);
  const CheckpointFolder folder(scratch.path(), 2);
  EXPECT_FALSE(folder.newest().has_value());
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state());
  for (const char* name : {"step-00000009.tmp77", "step-00000004.old77", "step-x", "other"})
    make_directory(scratch / name);
  write_text(scratch / "best.json.tmp77", "{");
  EXPECT_EQ(folder.newest(), 4);
  folder.save(state_at(5), named_tensors(subject.parameters), subject.optimizer->state());
  EXPECT_EQ(names_in(scratch.path()), (std::set<std::string>{"step-00000004", "step-00000005", "step-x", "other"}));
}

TEST(Checkpoint, FullDiskLeavesTheEarlierOneWhole) {
  const ScratchFolder scratch;
  Subject subject(0), loaded(1);
  const CheckpointFolder folder(scratch.path(), 1);
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state());
  std::string error;
  {
    const FileSizeLimit limit(2000);
    error = error_of([&] { folder.save(state_at(5), named_tensors(subject.parameters), subject.optimizer->state()); });
  }
  EXPECT_NE(error.find("model.safetensors"), error.npos) << error;
  EXPECT_NE(error.find("must be writable, got: File too large"), error.npos) << error;
  EXPECT_EQ(names_in(scratch.path()), (std::set<std::string>{"step-00000004"}));
  folder.load(4, stored_parameters(loaded.parameters), *loaded.optimizer);
  EXPECT_TRUE(subject.equals(loaded));
}

TEST(Checkpoint, ReadOnlyFolderIsAnErrorAndTheEarlierOneStays) {
  const ScratchFolder scratch;
  Subject subject(0), loaded(1);
  const CheckpointFolder folder(scratch / "checkpoints", 1);
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state());
  ::chmod((scratch / "checkpoints").c_str(), 0555);
  ::chmod(scratch.path().c_str(), 0755);
  const bool root = ::geteuid() == 0;  // to whom nothing is read-only
  ASSERT_EQ(root ? ::seteuid(65534) : 0, 0);
  const std::string error =
      error_of([&] { folder.save(state_at(5), named_tensors(subject.parameters), subject.optimizer->state()); });
  ASSERT_EQ(root ? ::seteuid(0) : 0, 0);
  ::chmod((scratch / "checkpoints").c_str(), 0755);
  EXPECT_NE(error.find("got: Permission denied"), error.npos) << error;
  EXPECT_EQ(folder.newest(), 4);
  folder.load(4, stored_parameters(loaded.parameters), *loaded.optimizer);
  EXPECT_TRUE(subject.equals(loaded));
}

TEST(Checkpoint, AFlippedBitAnywhereIsSeenAndTheFileNamed) {
  const ScratchFolder scratch;
  Subject subject(0);
  const CheckpointFolder folder(scratch.path(), 2);
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state(),
              {{"rule", at::zeros({3, 3})}});
  const auto load = [&] {
    folder.load(4, stored_parameters(subject.parameters), *subject.optimizer, {{"rule", at::zeros({3, 3})}});
  };
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "head_gradient.safetensors", "state.json"}) {
    const fs::path file = folder.path_of(4) / name;
    const std::string whole = read_file(file);
    const std::size_t stride = std::max<std::size_t>(1, whole.size() / 60);
    for (std::size_t byte = 0; byte < whole.size(); byte += stride) {
      std::string flipped = whole;
      flipped[byte] = char(flipped[byte] ^ (1 << byte % 8));
      write_text(file, flipped);
      const std::string error = error_of(load);
      expect_in(std::string(name) + " must have the hash", error);
      expect_in("it is damaged; there is no earlier checkpoint that is whole", error);
    }
    write_text(file, whole);
  }
  EXPECT_EQ(error_of(load), "no error");
}

TEST(Checkpoint, AFlippedBitInTheHashesIsSeen) {
  const ScratchFolder scratch;
  Subject subject(0);
  const CheckpointFolder folder(scratch.path(), 2);
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state());
  const fs::path file = folder.path_of(4) / "checksums";
  const std::string whole = read_file(file);
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    std::string flipped = whole;
    flipped[byte] = char(flipped[byte] ^ 4);
    write_text(file, flipped);
    expect_in("checksums beside it",
              error_of([&] { folder.load(4, stored_parameters(subject.parameters), *subject.optimizer); }));
  }
}

TEST(Checkpoint, ADamagedOneNamesTheNewestWholeOneBeforeIt) {
  const ScratchFolder scratch;
  Subject subject(0), loaded(1);
  const CheckpointFolder folder(scratch.path(), 4);
  for (const std::int64_t step : {1, 2, 3, 4})
    folder.save(state_at(step), named_tensors(subject.parameters), subject.optimizer->state());
  for (const std::int64_t step : {3, 4}) fs::resize_file(folder.path_of(step) / "optimizer.safetensors", 100);
  const std::string error = error_of([&] { folder.load(4, stored_parameters(loaded.parameters), *loaded.optimizer); });
  expect_in("step-00000004/optimizer.safetensors must have the hash", error);
  expect_in("the checkpoint of step 2 is whole: remove those after it to go on from there", error);
  folder.load(2, stored_parameters(loaded.parameters), *loaded.optimizer);
  EXPECT_TRUE(subject.equals(loaded));
  fs::remove(folder.path_of(4) / "optimizer.safetensors");
  expect_in("optimizer.safetensors must be there",
            error_of([&] { folder.load(4, stored_parameters(loaded.parameters), *loaded.optimizer); }));
}

TEST(Checkpoint, OneOfAnEarlierVersionLoadsWithoutHashes) {
  const ScratchFolder scratch;
  Subject subject(0), loaded(1);
  const CheckpointFolder folder(scratch.path(), 2);
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state());
  fs::remove(folder.path_of(4) / "checksums");
  Json state = Json::parse(read_file(folder.path_of(4) / "state.json"));
  state.erase("log_bytes");
  state.erase("log_hash");
  write_text(folder.path_of(4) / "state.json", state.dump());
  EXPECT_EQ(folder.load(4, stored_parameters(loaded.parameters), *loaded.optimizer).log_hash, "");
  EXPECT_TRUE(subject.equals(loaded));
}

TEST(Checkpoint, WhatAKillLeftUndoneIsDoneByTheNextStart) {
  const ScratchFolder scratch;
  Subject subject(0);
  for (const std::int64_t step : {1, 2, 3})  // as if each had been killed before it removed what need not stay
    CheckpointFolder(scratch.path(), 9)
        .save(state_at(step, 1), named_tensors(subject.parameters), subject.optimizer->state());
  const CheckpointFolder folder(scratch.path(), 1);
  make_directory(scratch / "step-00000002.tmp77");
  fs::remove(folder.path_of(2) / "state.json");  // a removal that was cut short in an earlier version
  EXPECT_EQ(checkpoint_steps(scratch.path()), (std::vector<std::int64_t>{1, 3}));
  // Killed between the checkpoint and best.json, which still says 1.
  TrainingState state = state_at(3, 3);
  folder.settle(state);
  EXPECT_EQ(names_in(scratch.path()), (std::set<std::string>{"step-00000003", "best.json"}));
  EXPECT_EQ(Json::parse(read_file(scratch / "best.json"))["step"], 3);
}

/// A saved checkpoint whose model file is rewritten by `change`.
std::string error_after(const std::function<void(NamedTensors&)>& change) {
  const ScratchFolder scratch;
  Subject subject(0);
  NamedTensors tensors = named_tensors(subject.parameters);
  change(tensors);
  write_safetensors(scratch / "model.safetensors", tensors);
  return error_of([&] { load_parameters(scratch / "model.safetensors", subject.parameters); });
}

TEST(LoadParameters, NamesTheTensorThatIsWrong) {
  EXPECT_EQ(error_after([](NamedTensors&) {}), "no error");
  const std::string name = "model.layers.0.self_attn.k_proj.weight";
  const auto edit = [&](const std::function<void(NamedTensors&, NamedTensors::iterator)>& action) {
    return error_after([&](NamedTensors& tensors) {
      action(tensors,
             std::find_if(tensors.begin(), tensors.end(), [&](const auto& item) { return item.first == name; }));
    });
  };
  expect_in("must hold a tensor " + name + ", got none", edit([](auto& all, auto at) { all.erase(at); }));
  expect_in(name + " must be F32 [16, 16], got F32 [15, 16]",
            edit([](auto&, auto at) { at->second = at->second.narrow(0, 0, 15); }));
  expect_in(name + " must be F32 [16, 16], got F32 [256]",
            edit([](auto&, auto at) { at->second = at->second.reshape({256}); }));
  expect_in(name + " must be F32 [16, 16], got F64 [16, 16]",
            edit([](auto&, auto at) { at->second = at->second.to(at::kDouble); }));
  expect_in("must hold nothing but this model's tensors, got extra",
            error_after([](NamedTensors& all) { all.emplace_back("extra", at::zeros({1})); }));
}

TEST(LoadParameters, WrongFilesChangeNothing) {
  const ScratchFolder scratch;
  Subject subject(0), same(0);
  NamedTensors tensors = named_tensors(Subject(1).parameters);
  tensors.back().second = at::zeros({2});
  write_safetensors(scratch / "model.safetensors", tensors);
  EXPECT_ERROR(load_parameters(scratch / "model.safetensors", subject.parameters), "got F32 [2]");
  EXPECT_TRUE(subject.equals(same));
}

TEST(Checkpoint, DamagedStateIsAnErrorThatNamesTheFile) {
  const ScratchFolder scratch;
  Subject subject(0);
  const CheckpointFolder folder(scratch.path(), 2);
  folder.save(state_at(4), named_tensors(subject.parameters), subject.optimizer->state());
  fs::remove(folder.path_of(4) / "checksums");  // as in an earlier version's checkpoint
  const auto error_with = [&](const std::string& text) {
    write_text(folder.path_of(4) / "state.json", text);
    return error_of([&] { folder.load(4, stored_parameters(subject.parameters), *subject.optimizer); });
  };
  expect_in("state.json] must be valid JSON", error_with("{"));
  expect_in("state.json] must hold numbers", error_with("{\"step\":1e999}"));
  expect_in("step must be an integer of at least 0, got -1", error_with("{\"step\":-1}"));
  expect_in("stepp must be a known key", error_with("{\"stepp\":1}"));
  fs::resize_file(folder.path_of(4) / "model.safetensors", 100);
  expect_in("model.safetensors", error_with("{\"step\":4}"));
}

}  // namespace
}  // namespace lmhead
