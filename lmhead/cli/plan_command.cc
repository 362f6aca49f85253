#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/data/batches.h"
#include "lmhead/run/parallel_plan.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

RunConfiguration configuration_of(const PlanRequest& request) {
  const fs::path given = request.configuration;
  Json json = read_json(fs::is_directory(given) ? given / "config.json" : given);
  for (const std::string& assignment : request.overrides) apply_override(json, assignment);
  return read_options<RunConfiguration>(json);
}

std::int64_t vocab_size_of(const TrainConfiguration& configuration) {
  if (configuration.model.vocab_size) return *configuration.model.vocab_size;
  return open_batches(configuration.data, std::uint64_t(configuration.training.seed), std::nullopt)->vocab_size();
}

ProcessMachine machine_of(const PlanRequest& request, const RunConfiguration& configuration) {
  require(request.processes == 1 || !request.link.empty(), "plan",
          "--link must say GB/s,us for more than one process, got none");
  require(request.link.empty() || request.link[0] > 0, "plan", "--link must be of more than 0 GB/s, got ",
          request.link.empty() ? 0 : request.link[0]);
  ProcessMachine machine;
  std::optional<std::int64_t> threads = configuration.train.training.threads;
  if (!threads && request.processes > 1) threads = 1;  // which torchrun gives each
  machine.flops_per_second = request.rate > 0 ? request.rate * 1e12 : measure_product_rate(threads);
  if (!request.link.empty()) {
    machine.bytes_per_second = request.link[0] * 1e9;
    machine.seconds_per_message = request.link[1] * 1e-6;
  }
  if (request.memory > 0) machine.memory = request.memory * 0x1p30;
  return machine;
}

std::string seconds_text(double seconds) {
  char text[32];
  if (seconds >= 1) std::snprintf(text, sizeof text, "%.2f s", seconds);
  else if (seconds >= 1e-3) std::snprintf(text, sizeof text, "%.1f ms", seconds * 1e3);
  else std::snprintf(text, sizeof text, "%.0f us", seconds * 1e6);
  return text;
}

std::string name_of(const SharingPlan& way) {
  return std::string(way.is_optimizer_sharded ? "sharded" : "replicated") + (way.shares_words ? ", words" : "");
}

/// A line of the table: what it is of, and a cell a way.
template <class Cell>
void print_line(const char* what, const std::vector<SharingPlan>& ways, const Cell& cell) {
  std::printf("%-42s", what);
  for (const SharingPlan& way : ways)
    if (!way.against) std::printf(" %18s", cell(way).c_str());
  std::printf("\n");
}

void print_table(const ParallelPlan& plan) {
  const auto memory = [&](const char* what, double MemoryEstimate::* part) {
    print_line(what, plan.ways, [&](const SharingPlan& way) { return format_bytes(way.memory.*part); });
  };
  print_line("parallel.optimizer, parallel.vocabulary", plan.ways, name_of);
  std::printf("memory of a process\n");
  memory("  parameters", &MemoryEstimate::values);
  memory("  gradients", &MemoryEstimate::gradients);
  memory("  on its way", &MemoryEstimate::exchange);
  memory("  optimiser", &MemoryEstimate::optimizer);
  memory("  activations of a micro-batch", &MemoryEstimate::activations);
  memory("  logits at a time", &MemoryEstimate::logits);
  memory("  at most at once, beside the program", &MemoryEstimate::peak);
  if (plan.processes > 1) {
    std::printf("sent by a process in a step\n");
    std::vector<std::string> purposes;
    for (const SharingPlan& way : plan.ways)
      for (const Sent& sent : way.sent)
        if (std::ranges::find(purposes, sent.what) == purposes.end()) purposes.push_back(sent.what);
    for (const std::string& purpose : purposes)
      print_line(("  " + purpose).c_str(), plan.ways, [&](const SharingPlan& way) {
        double bytes = 0;
        for (const Sent& sent : way.sent)
          if (sent.what == purpose) bytes += ring_bytes(sent.rounds, sent.bytes, plan.processes);
        return format_bytes(bytes);
      });
    print_line("  together", plan.ways, [](const SharingPlan& way) { return format_bytes(way.sent_bytes); });
  }
  std::printf("time of a step\n");
  print_line("  products", plan.ways, [](const SharingPlan& way) { return seconds_text(way.product_seconds); });
  if (plan.processes > 1)
    print_line("  exchange", plan.ways, [](const SharingPlan& way) { return seconds_text(way.exchange_seconds); });
  print_line("  together, gradients sent meanwhile", plan.ways,
             [](const SharingPlan& way) { return seconds_text(way.step_seconds); });
  print_line("  tokens/s", plan.ways,
             [&](const SharingPlan& way) { return std::to_string(std::int64_t(plan.tokens / way.step_seconds)); });
}

}  // namespace

int run_plan(const PlanRequest& request) {
  const RunConfiguration configuration = configuration_of(request);
  const ProcessMachine machine = machine_of(request, configuration);
  const std::int64_t vocab_size = vocab_size_of(configuration.train);
  const ParallelPlan plan = plan_parallel(configuration, vocab_size, request.processes, machine);
  if (request.json) {
    std::printf("%s\n", to_json(plan).dump(2).c_str());
    return 0;
  }
  std::printf("%s: %lld %s, %.4g parameters, %.4g tokens a step, %.3g TFLOP/s a process\n\n",
              printable_text(request.configuration).c_str(), static_cast<long long>(plan.processes),
              plan.processes == 1 ? "process" : "processes", plan.ways.front().memory.parameters, plan.tokens,
              machine.flops_per_second / 1e12);
  print_table(plan);
  if (plan.processes == 1) return 0;
  std::printf("\n");
  if (const SharingPlan& last = plan.ways.back(); last.against)
    std::printf("words cannot be shared out: %s\n", last.against->c_str());
  if (!plan.choice) std::printf("no way fits in %s\n", format_bytes(*machine.memory).c_str());
  else
    std::printf("choice: parallel.optimizer=%s parallel.vocabulary=%s\n",
                plan.ways[*plan.choice].is_optimizer_sharded ? "sharded" : "replicated",
                plan.ways[*plan.choice].shares_words ? "on" : "off");
  return 0;
}

}  // namespace lmhead
