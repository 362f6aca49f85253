#include "lmhead/evaluate/downstream.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"

namespace lmhead {
namespace {

constexpr const char* kFigures[] = {"acc", "acc_norm", "bits_per_byte"};

DownstreamDocument read_document(const Json& json) {
  DownstreamDocument document;
  for (const Json& request : json.at("requests"))
    document.requests.push_back(
        {request.at(0).get<std::vector<std::int64_t>>(), request.at(1).get<std::vector<std::int64_t>>()});
  if (!json.at("gold").is_null()) document.gold = json["gold"].get<std::int64_t>();
  document.characters = json.at("characters").get<std::vector<double>>();
  document.gold_bytes = json.at("gold_bytes").get<double>();
  const std::size_t count = document.requests.size();
  require(count > 0, "evaluate", "must have a request, got none");
  require(!document.gold || (*document.gold >= 0 && std::size_t(*document.gold) < count), "evaluate",
          "must have its gold below ", count, ", got ", document.gold.value_or(0));
  require(document.characters.empty() || document.characters.size() == count, "evaluate",
          "must have characters of each of ", count, " requests, got ", document.characters.size());
  return document;
}

std::string without_who(const Error& error) {
  return std::string(error.what()).substr(std::string("[evaluate] ").size());
}

/// The first of the largest.
std::int64_t largest(const std::vector<double>& values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

/// The figures of one document whose scores begin at `score`.
std::map<std::string, double> figures_of(const DownstreamDocument& document, const Score* score) {
  std::map<std::string, double> figures;
  if (!document.gold) return figures;
  std::vector<double> plain, by_character;
  for (std::size_t index = 0; index < document.requests.size(); ++index) {
    plain.push_back(score[index].log_probability);
    if (!document.characters.empty()) by_character.push_back(plain.back() / std::max(1.0, document.characters[index]));
  }
  figures["acc"] = document.requests.size() == 1 ? score->is_greedy : largest(plain) == *document.gold;
  if (by_character.size() > 1) figures["acc_norm"] = largest(by_character) == *document.gold;
  if (document.gold_bytes > 0)
    figures["bits_per_byte"] = -plain[std::size_t(*document.gold)] / std::numbers::ln2 / document.gold_bytes;
  return figures;
}

}  // namespace

DownstreamTasks read_downstream_tasks(const std::filesystem::path& file) {
  const std::string name = file.string();
  const Json json = parse_json(read_file(file), name);
  require(json.is_object() && json.value("format", Json()) == "lmhead-requests" && json.value("version", Json()) == 1,
          "evaluate", name, " must be what lmhead evaluate --requests wrote, got something else");
  DownstreamTasks result;
  std::string place;
  try {
    result.tokenizer_hash = json.at("tokenizer_hash").get<std::string>();
    for (const Json& task : json.at("tasks")) {
      result.tasks.push_back({task.at("name").get<std::string>(), {}});
      for (const Json& document : task.at("documents")) {
        place = " document " + std::to_string(result.tasks.back().documents.size()) + " of " + result.tasks.back().name;
        result.tasks.back().documents.push_back(read_document(document));
      }
      require(!result.tasks.back().documents.empty(), "evaluate", "must hold a document, got none");
    }
  } catch (const Json::exception&) {
    fail("evaluate", name, ":", place, " must have every key of docs/files.md in its type, got another");
  } catch (const Error& error) {
    fail("evaluate", name, ":", place, ' ', without_who(error));
  }
  require(!result.tasks.empty(), "evaluate", name, " must hold a task, got none");
  return result;
}

void check_downstream(const Scorer& scorer, const DownstreamTasks& tasks) {
  for (const DownstreamTask& task : tasks.tasks)
    for (std::size_t number = 0; number < task.documents.size(); ++number) try {
        const std::vector<ScoreRequest>& requests = task.documents[number].requests;
        for (std::size_t place = 0; place < requests.size(); ++place) scorer.check(requests[place], place);
      } catch (const Error& error) {
        fail("evaluate", "document ", number, " of ", task.name, ": ", without_who(error));
      }
}

void cut_alike(DownstreamTasks& tasks, std::int64_t max_length) {
  for (DownstreamTask& task : tasks.tasks)
    for (DownstreamDocument& document : task.documents) {
      std::vector<ScoreRequest>& requests = document.requests;
      const std::vector<std::int64_t> context = requests.front().context;
      std::size_t longest = 0;
      for (const ScoreRequest& request : requests) longest = std::max(longest, request.continuation.size());
      const std::int64_t beyond = std::int64_t(context.size() + longest) - 1 - max_length;
      const auto has_context = [&](const ScoreRequest& request) { return request.context == context; };
      if (beyond <= 0 || !std::ranges::all_of(requests, has_context)) continue;
      for (ScoreRequest& request : requests)
        request.context.erase(request.context.begin(), request.context.begin() + beyond);
    }
}

Json score_downstream(const Scorer& scorer, const DownstreamTasks& tasks) {
  Json result = Json::object();
  std::map<std::string, std::pair<double, std::size_t>> averages;
  for (const DownstreamTask& task : tasks.tasks) {
    std::vector<ScoreRequest> requests;
    for (const DownstreamDocument& document : task.documents)
      requests.insert(requests.end(), document.requests.begin(), document.requests.end());
    const std::vector<Score> scores = scorer.score(requests);
    std::map<std::string, std::pair<double, std::size_t>> sums;
    const Score* score = scores.data();
    for (const DownstreamDocument& document : task.documents) {
      for (const auto& [name, value] : figures_of(document, score)) sums[name].first += value, ++sums[name].second;
      score += document.requests.size();
    }
    Json figures = Json::object();
    for (const char* name : kFigures) {
      const auto found = sums.find(name);
      if (found == sums.end() || found->second.second != task.documents.size()) continue;
      const double mean = found->second.first / double(task.documents.size());
      figures[name] = mean;
      averages[name].first += mean, ++averages[name].second;
    }
    result[task.name] = figures;
  }
  if (tasks.tasks.size() == 1) return result;
  Json average = Json::object();
  for (const char* name : kFigures)
    if (averages[name].second == tasks.tasks.size()) average[name] = averages[name].first / double(tasks.tasks.size());
  result["average"] = average;
  return result;
}

}  // namespace lmhead
