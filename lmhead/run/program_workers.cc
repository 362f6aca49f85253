#include "lmhead/run/program_workers.h"

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr double kWaitSeconds = 0.1;

}  // namespace

ProgramWorkers::ProgramWorkers(const fs::path& program, const std::string& address, const fs::path& folder)
    : process_(program, {}) {
  ask({{"open", address}, {"folder", fs::absolute(folder).string()}});
}

Json ProgramWorkers::ask(const Json& request) {
  const std::string line = process_.ask(request.dump());
  const std::optional<Json> answer = try_parse_json(line);
  require(answer && answer->is_object(), "study", "a program that carries out runs must answer with an object, got ",
          line.substr(0, 80));
  if (answer->contains("error")) fail("study", answer->at("error").get<std::string>());
  return *answer;
}

void ProgramWorkers::start(std::size_t ticket, const Json& configuration, const fs::path& folder) {
  ask({{"start", ticket}, {"configuration", configuration}, {"folder", fs::absolute(folder).string()}});
}

std::vector<RunEvent> ProgramWorkers::wait() {
  std::vector<RunEvent> events;
  const Json answer = ask({{"wait", kWaitSeconds}});
  for (const Json& event : answer.at("events")) {
    const auto ticket = event.at("ticket").get<std::size_t>();
    if (event.contains("end"))
      events.push_back({ticket, run_end_named(event.at("end").get<std::string>()), 0, event.value("error", "")});
    else events.push_back({ticket, std::nullopt, event.at("step").get<std::int64_t>(), ""});
  }
  return events;
}

void ProgramWorkers::stop() { ask({{"stop", true}}); }

}  // namespace lmhead
