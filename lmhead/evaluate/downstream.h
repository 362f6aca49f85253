// Tasks whose questions are ids already: what a run can be asked while it trains.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/evaluate/scorer.h"

namespace lmhead {

/// One document: a request a choice, or a single one whose continuation is the answer.
struct DownstreamDocument {
  std::vector<ScoreRequest> requests;
  std::optional<std::int64_t> gold;  // which request is the right answer
  std::vector<double> characters;    // of each choice without its delimiter; empty: not known
  double gold_bytes = 0;             // UTF-8 bytes of the right answer with its delimiter; 0: not known
};

struct DownstreamTask {
  std::string name;
  std::vector<DownstreamDocument> documents;
};

/// What `lmhead evaluate --requests` wrote (docs/files.md).
struct DownstreamTasks {
  std::string tokenizer_hash;
  std::vector<DownstreamTask> tasks;
};

/// Reads such a file. Throws, naming it and the place, on whatever is missing, misshapen or empty.
DownstreamTasks read_downstream_tasks(const std::filesystem::path& file);

/// Throws, naming the task and the document, where the model cannot be asked.
void check_downstream(const Scorer& scorer, const DownstreamTasks& tasks);

/// Takes from the contexts of each document whose requests have the same one what its longest request is longer than
/// `max_length`, so that its requests keep sharing what is left. The scorer alone would cut each by its own length.
void cut_alike(DownstreamTasks& tasks, std::int64_t max_length);

/// Of each task by name and, where there are several, of `average` over tasks: `acc` (the right answer has the largest
/// log probability, of equals the first; of a single request: it is greedy), `acc_norm` (the same of log probability
/// over characters) and `bits_per_byte` of the right answer, as in docs/glossary.md; each is there where all documents
/// have it. Throws as `Scorer::score`.
Json score_downstream(const Scorer& scorer, const DownstreamTasks& tasks);

}  // namespace lmhead
