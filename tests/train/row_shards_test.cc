#include "lmhead/train/row_shards.h"

#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lmhead/base/json.h"
#include "lmhead/train/optimizer.h"

namespace lmhead {
namespace {

ParameterPtr parameter(const std::string& name, at::IntArrayRef shape, ParameterKind kind = ParameterKind::kMatrix) {
  const at::Tensor value = at::rand(shape);
  return std::make_shared<Parameter>(Parameter{name, kind, value, value, {}});
}

/// Numbers of rows below, at and above those of processes; a matrix of no use to a process; a number.
ParameterList some_parameters() {
  return {parameter("a", {7, 3}), parameter("b", {2, 5}), parameter("c", {4}),    parameter("d", {}),
          parameter("e", {9, 9}), parameter("f", {9, 9}), parameter("g", {9, 9}), parameter("h", {9, 9})};
}
const std::vector<bool> kWhole = {false, false, false, false, true, true, true, true};

TEST(RowShards, EveryRowIsOneProcessesAndWholeMatricesAreSpreadEvenly) {
  const ParameterList parameters = some_parameters();
  for (const std::int64_t processes : {1, 2, 3, 4, 11}) {
    const RowShards shards = shard_rows(parameters, kWhole, processes);
    ASSERT_EQ(std::ssize(shards), processes);
    std::vector<int> matrices(std::size_t(processes), 0);
    for (std::size_t index = 0; index < parameters.size(); ++index) {
      const at::Tensor seen = at::zeros_like(parameters[index]->value);
      for (std::size_t process = 0; process < shards.size(); ++process) {
        const Rows& rows = shards[process][index];
        rows_of(seen, rows).add_(1);
        if (!kWhole[index]) continue;
        EXPECT_TRUE(rows.count == 0 || rows.count == 9);
        matrices[process] += rows.count > 0;
      }
      EXPECT_TRUE(seen.eq(1).all().item<bool>()) << parameters[index]->name << " in " << processes;
    }
    const auto [least, most] = std::ranges::minmax(matrices);
    EXPECT_LE(most - least, 1);
  }
}

TEST(RowShards, PiecesShareTheMemoryOfTheirRows) {
  const ParameterList parameters = some_parameters();
  const RowShards shards = shard_rows(parameters, kWhole, 3);
  for (const std::vector<Rows>& rows : shards)
    for (const ParameterPtr& piece : pieces_of(parameters, rows)) piece->value.zero_();
  for (const ParameterPtr& one : parameters) EXPECT_EQ(one->value.count_nonzero().item<int>(), 0) << one->name;
}

TEST(RowShards, ABucketHasAPlaceForEveryRowAndNoTwoShareOne) {
  const ParameterList parameters = some_parameters();
  const RowShards shards = shard_rows(parameters, kWhole, 3);
  RowBucket bucket;
  for (const std::size_t index : {5u, 0u, 3u, 1u, 7u, 2u})
    bucket.add(index, parameters[index]->value.sizes().vec(), shards);
  const at::Tensor buffer = at::full({3, bucket.chunk}, -1.0f);
  for (std::size_t process = 0; process < 3; ++process)
    for (std::size_t member = 0; member < bucket.members.size(); ++member)
      bucket.place(buffer[std::int64_t(process)], member, process)
          .copy_(rows_of(parameters[bucket.members[member]]->value, shards[process][bucket.members[member]]));
  std::int64_t numbers = 0;
  for (std::size_t member = 0; member < bucket.members.size(); ++member) {
    const at::Tensor& value = parameters[bucket.members[member]]->value;
    numbers += value.numel();
    for (std::size_t process = 0; process < 3; ++process)
      EXPECT_TRUE(bucket.place(buffer[std::int64_t(process)], member, process)
                      .equal(rows_of(value, shards[process][bucket.members[member]])));
  }
  EXPECT_EQ(buffer.ge(0).sum().item<std::int64_t>(), numbers);
}

TEST(RowShards, BucketsHaveWhatTravelsOfEachPlaceOnce) {
  const ParameterList parameters = some_parameters();
  std::vector<Placement> placement(8, Placement::kSharedOut);
  placement[0] = Placement::kHere;
  placement[1] = Placement::kEverywhere;
  const Layout layout = lay_out(parameters, placement, kWhole, 3);
  EXPECT_FALSE(layout.is_all_everywhere());
  EXPECT_EQ(layout.rows_of_processes(0), (std::vector<std::int64_t>{2, 2, 3}));
  EXPECT_EQ(layout.rows_of_processes(1), (std::vector<std::int64_t>{2, 2, 2}));
  std::vector<bool> scattered(8, true);
  scattered[1] = scattered[3] = false;
  std::vector<std::size_t> sent;
  for (const RowBucket& bucket : gradient_buckets(parameters, layout, scattered)) {
    sent.insert(sent.end(), bucket.members.begin(), bucket.members.end());
    for (const std::size_t member : bucket.members) EXPECT_EQ(bucket.is_scattered, scattered[member]);
  }
  EXPECT_EQ(sent, (std::vector<std::size_t>{7, 6, 5, 4, 3, 2, 1}));
  const std::vector<RowBucket> values = value_buckets(parameters, layout);
  ASSERT_EQ(values.size(), 1u);
  EXPECT_EQ(values[0].members, (std::vector<std::size_t>{2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(values[0].chunk, 1 + 2 * 81);  // of the first process: a number and two matrices
}

TEST(RowShards, MuonAndCoupledAdamNeedAllRowsOfWhatTheyUpdate) {
  const ParameterList parameters = {parameter("body", {4, 4}), parameter("head", {4, 4}, ParameterKind::kHead),
                                    parameter("gain", {4}, ParameterKind::kVector)};
  const auto need = [&](const char* json) {
    return need_all_rows(read_options<OptimizerOptions>(parse_json(json, "case")), parameters);
  };
  EXPECT_EQ(need(R"({})"), (std::vector<bool>{false, false, false}));
  EXPECT_EQ(need(R"({"type": "muon"})"), (std::vector<bool>{true, false, false}));
  EXPECT_EQ(need(R"({"type": "muon", "groups": [{"pattern": "body", "type": "sgd"}]})"),
            (std::vector<bool>{false, false, false}));
  EXPECT_EQ(need(R"({"groups": [{"pattern": "head", "type": "adamw", "coupled": true}]})"),
            (std::vector<bool>{false, true, false}));
  EXPECT_EQ(need(R"({"groups": [{"pattern": "head", "type": "muon"}]})"), (std::vector<bool>{false, true, false}));
}

}  // namespace
}  // namespace lmhead
