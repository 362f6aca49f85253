#include "lmhead/run/parallel_plan.h"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "lmhead/run/cost.h"
#include "lmhead/train/shared_step.h"

namespace lmhead {
namespace {

constexpr double kAsFast = 1.05;  // times are not known better than this

double seconds_of(const Sent& sent, std::int64_t processes, const ProcessMachine& machine) {
  return ring_bytes(sent.rounds, sent.bytes, processes) / machine.bytes_per_second +
         sent.messages * ring_hops(sent.rounds, processes) * machine.seconds_per_message;
}

SharingPlan plan_way(const RunConfiguration& run, std::int64_t processes, const CausalModel& shapes,
                     const ProcessMachine& machine, bool is_sharded, bool shares_words) {
  TrainConfiguration configuration = run.train;
  configuration.parallel.optimizer = is_sharded ? "sharded" : "replicated";
  SharingPlan way{.is_optimizer_sharded = is_sharded, .shares_words = shares_words};
  if (shares_words) way.against = against_sharing_words(run.observe);
  if (shares_words && !way.against) way.against = against_sharing_words(configuration, shapes, processes);
  if (way.against) return way;
  const std::int64_t vocab_size = shapes.head->vocab_size();
  way.memory = estimate_memory(configuration, vocab_size, processes, shares_words);
  way.fits = !machine.memory || way.memory.peak <= *machine.memory;

  const DataOptions& data = configuration.data;
  const std::int64_t sequences = data.batch_size / data.micro_batches;
  const double own =
      double((sequences + processes - 1) / processes) * double(data.micro_batches) * double(data.sequence_length);
  const double all = training_flops_per_token(configuration, vocab_size);
  const double of_head = shapes.head->flops_per_token(data.sequence_length);
  double flops = own * all;
  if (shares_words)
    flops = own * (all - of_head) + training_tokens_per_step(configuration) * of_head * 4 / 3 / double(processes);
  way.product_seconds = flops / machine.flops_per_second;

  const ExchangeEstimate exchange = estimate_exchange(configuration, shapes, shares_words, processes);
  way.sent = exchange.sent;
  way.sent_bytes = exchange.bytes(processes);
  double of_gradients = 0;
  for (const Sent& sent : exchange.sent) {
    const double seconds = seconds_of(sent, processes, machine);
    way.exchange_seconds += seconds;
    if (sent.is_meanwhile) of_gradients += seconds;
  }
  const bool travels_meanwhile = configuration.head_gradient.is_plain_backpropagation();
  const double last_backward = travels_meanwhile ? way.product_seconds * 2 / 3 / double(data.micro_batches) : 0;
  way.step_seconds = way.product_seconds + way.exchange_seconds - std::min(of_gradients, last_backward);
  return way;
}

std::optional<std::size_t> choose(const std::vector<SharingPlan>& ways) {
  std::optional<double> fastest;
  for (const SharingPlan& way : ways)
    if (!way.against && way.fits && (!fastest || way.step_seconds < *fastest)) fastest = way.step_seconds;
  std::optional<std::size_t> choice;
  for (std::size_t index = 0; index < ways.size(); ++index) {
    const SharingPlan& way = ways[index];
    if (way.against || !way.fits || way.step_seconds > *fastest * kAsFast) continue;
    if (!choice || way.memory.peak < ways[*choice].memory.peak) choice = index;
  }
  return choice;
}

}  // namespace

ParallelPlan plan_parallel(const RunConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes,
                           const ProcessMachine& machine) {
  require_sequences(configuration.train.data, processes);
  const CausalModel shapes = shapes_of(configuration.train, vocab_size);
  ParallelPlan plan{.vocab_size = vocab_size,
                    .processes = processes,
                    .tokens = training_tokens_per_step(configuration.train),
                    .flops_per_token = training_flops_per_token(configuration.train, vocab_size)};
  for (const bool shares_words : {false, true})
    for (const bool is_sharded : {false, true})
      if (processes > 1 || (!shares_words && !is_sharded))
        plan.ways.push_back(plan_way(configuration, processes, shapes, machine, is_sharded, shares_words));
  plan.choice = choose(plan.ways);
  return plan;
}

double measure_product_rate(const std::optional<std::int64_t>& threads) {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kSide = 1024;
  constexpr double kSeconds = 0.3;
  if (threads) at::set_num_threads(int(*threads));
  const at::Tensor left = at::ones({kSide, kSide}), right = at::ones({kSide, kSide});
  double best = 0;
  const auto begin = Clock::now();
  for (auto start = begin; std::chrono::duration<double>(start - begin).count() < kSeconds; start = Clock::now()) {
    at::mm(left, right);
    best =
        std::max(best, 2 * double(kSide * kSide * kSide) / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

Json to_json(const ParallelPlan& plan) {
  Json ways = Json::array();
  for (const SharingPlan& way : plan.ways) {
    Json one = {{"parallel.optimizer", way.is_optimizer_sharded ? "sharded" : "replicated"},
                {"parallel.vocabulary", way.shares_words ? "on" : "off"}};
    if (way.against) {
      one["cannot_be"] = *way.against;
      ways.push_back(std::move(one));
      continue;
    }
    const MemoryEstimate& memory = way.memory;
    one["memory_bytes"] = {{"values", memory.values},
                           {"gradients", memory.gradients},
                           {"exchange", memory.exchange},
                           {"optimizer", memory.optimizer},
                           {"activations", memory.activations},
                           {"logits", memory.logits},
                           {"peak", memory.peak}};
    one["sent"] = Json::array();
    for (const Sent& sent : way.sent)
      one["sent"].push_back({{"what", sent.what},
                             {"bytes", ring_bytes(sent.rounds, sent.bytes, plan.processes)},
                             {"messages", sent.messages}});
    one.update({{"exchange_bytes", way.sent_bytes},
                {"product_seconds", way.product_seconds},
                {"exchange_seconds", way.exchange_seconds},
                {"step_seconds", way.step_seconds},
                {"fits", way.fits}});
    ways.push_back(std::move(one));
  }
  return {{"vocab_size", plan.vocab_size},
          {"processes", plan.processes},
          {"parameters", plan.ways.front().memory.parameters},
          {"tokens_per_step", plan.tokens},
          {"flops_per_token", plan.flops_per_token},
          {"ways", std::move(ways)},
          {"choice", plan.choice ? Json(*plan.choice) : Json(nullptr)}};
}

}  // namespace lmhead
