#include "lmhead/train/trained_by.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <sys/utsname.h>
#include <torch/library.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "lmhead/base/build_commit.h"

namespace lmhead {
namespace {

/// Of the hundred that the system lists, those that products, rows and their rounding depend on.
constexpr std::array kInstructions = {"avx2",        "fma",         "f16c",        "avx512f",  "avx512bw",
                                      "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "asimd",
                                      "sve",         "sve2",        "bf16",        "svebf16"};

/// The value of the first line of /proc/cpuinfo that begins with `key`; empty where there is none.
std::string processor_line(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

std::string processor_name() {
  if (const std::string name = processor_line("model name"); !name.empty()) return name;
  const std::string maker = processor_line("CPU implementer"), part = processor_line("CPU part");
  if (!maker.empty()) return "implementer " + maker + " part " + part;
  utsname system{};
  return ::uname(&system) == 0 ? system.machine : "";
}

std::string known_instructions() {
  std::string flags = processor_line("flags");
  if (flags.empty()) flags = processor_line("Features");
  std::istringstream words(flags);
  std::string known;
  for (std::string word; words >> word;)
    if (std::ranges::find(kInstructions, word) != kInstructions.end()) known += (known.empty() ? "" : " ") + word;
  return known;
}

}  // namespace

void TrainedBy::visit_fields(FieldVisitor& visitor) {
  visitor.field("commit", commit, "of the sources");
  visitor.field("processor", processor, "its name");
  visitor.field("instructions", instructions, "of it that arithmetic may use");
  visitor.field("vector_level", vector_level, "what is used of them");
  visitor.field("torch_version", torch_version, "of libtorch");
  visitor.field("threads", threads, "of every operation", at_least(1));
}

void add_this_process(std::vector<TrainedBy>& trained_by, std::int64_t step) {
  if (trained_by.empty() && step > 0) trained_by.push_back({.commit = "unknown"});
  const TrainedBy now = trained_by_this_process();
  if (trained_by.empty() || trained_by.back() != now) trained_by.push_back(now);
}

Json to_json(const std::vector<TrainedBy>& trained_by) {
  Json list = Json::array();
  for (const TrainedBy& one : trained_by) list.push_back(write_options(one));
  return list;
}

TrainedBy trained_by_this_process() {
  static const std::string processor = processor_name(), instructions = known_instructions();
  return {.commit = build_commit(),
          .processor = processor,
          .instructions = instructions,
          .vector_level = at::get_cpu_capability(),
          .torch_version = TORCH_VERSION,
          .threads = at::get_num_threads()};
}

namespace {

/// For `lmhead doctor`: this process as a JSON object.
std::string process_as_json() { return write_options(trained_by_this_process()).dump(); }

TORCH_LIBRARY_FRAGMENT(lmhead, library) { library.def("_trained_by_this_process", process_as_json); }

}  // namespace
}  // namespace lmhead
