#include "lmhead/measure/measured_tokens.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "lmhead/base/error.h"
#include "lmhead/base/json.h"
#include "lmhead/data/sidecar.h"
#include "lmhead/data/token_file.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWho = "measure";
constexpr std::int64_t kScanTokens = 1 << 14;

const Json& member(const Json& json, const char* key, const fs::path& file, bool (*fits)(const Json&),
                   const char* must) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  require(json.is_object() && found != json.end() && fits(*found), kWho, file.string(), ": ", key, " must be ", must,
          ", got ", json.is_object() && found != json.end() ? found->dump().substr(0, 80) : "none");
  return *found;
}

bool is_count(const Json& value) { return value.is_number_unsigned() && value.get<std::uint64_t>() <= (1ull << 60); }
bool is_text(const Json& value) { return value.is_string(); }
bool is_array(const Json& value) { return value.is_array(); }

/// A tokenizer may know more ids than the head, as long as the text needs none of them.
void require_known_ids(const TokenShard& shard, std::int64_t vocab_size, const std::string& tokenizer) {
  std::vector<std::int64_t> ids(kScanTokens);
  for (std::int64_t at = 0; at < shard.size(); at += kScanTokens) {
    const std::int64_t count = std::min(kScanTokens, shard.size() - at);
    shard.copy(at, count, ids.data());
    const auto wrong =
        std::find_if(ids.begin(), ids.begin() + count, [&](std::int64_t id) { return id >= vocab_size; });
    if (wrong != ids.begin() + count)
      fail(kWho, "the text's tokens must be below the head's ", vocab_size, ", got id ", *wrong, " of ", tokenizer);
  }
}

}  // namespace

MeasuredTokens open_measured_tokens(const fs::path& file, std::int64_t vocab_size,
                                    std::optional<std::int64_t> end_of_document, std::optional<TokenType> told) {
  constexpr const char* kOption = "--token-type";
  if (const auto sidecar = find_sidecar(file.parent_path()))
    for (const SidecarSplit* split : {&sidecar->train, &sidecar->validation})
      if (split->file.filename() == file.filename())
        return {.ids = open_split(*sidecar, *split, vocab_size, told, kOption),
                .bytes_per_token =
                    split->bytes > 0 ? std::optional(double(split->bytes) / double(split->tokens)) : std::nullopt,
                .end_of_document = sidecar->end_of_document};
  return {.ids = open_token_file({file, vocab_size, told, kOption}), .end_of_document = end_of_document};
}

MeasuredTokens open_tokenized_text(const fs::path& folder, std::int64_t vocab_size) {
  const fs::path file = folder / "tokens.json";
  const Json json = read_json(file);
  const auto open = [&](const char* name, std::int64_t limit) {
    return TokenShard::open_headerless(std::make_shared<const InputFile>(folder / name), TokenType::kUint32, limit);
  };
  const auto known = member(json, "vocab_size", file, is_count, "a count").get<std::int64_t>();
  if (known > vocab_size)
    require_known_ids(open("tokens.bin", known), vocab_size,
                      member(json, "tokenizer", file, is_text, "a text").get<std::string>());
  MeasuredTokens tokens{.ids = open("tokens.bin", vocab_size),
                        .lengths = open("lengths.bin", std::numeric_limits<std::int64_t>::max())};
  if (json.contains("beginning")) {
    tokens.beginning = member(json, "beginning", file, is_count, "an id").get<std::int64_t>();
    require(*tokens.beginning < vocab_size, kWho, "the beginning-of-text token must be below the head's ", vocab_size,
            ", got ", *tokens.beginning);
    tokens.opens_windows = member(json, "bos", file, is_text, "a text") == "every-window";
  }
  for (const Json& count : member(json, "document_tokens", file, is_array, "a list")) {
    require(is_count(count), kWho, file.string(), ": document_tokens must be counts, got ", count.dump());
    tokens.document_tokens.push_back(count.get<std::int64_t>());
  }
  const std::int64_t sum =
      std::accumulate(tokens.document_tokens.begin(), tokens.document_tokens.end(), std::int64_t(0));
  require(sum == tokens.ids.size() && tokens.lengths->size() == sum, kWho, file.string(),
          ": document_tokens must sum to the tokens of both files, got ", sum, ", ", tokens.ids.size(), " and ",
          tokens.lengths->size());
  return tokens;
}

WindowReader::WindowReader(const MeasuredTokens& tokens, const WindowOptions& options)
    : tokens_(tokens),
      options_(options),
      segments_are_documents_(!tokens.document_tokens.empty() || options.by_document) {
  require(options.sequence_length >= 1, kWho, "sequence_length must be at least 1, got ", options.sequence_length);
  require(!options.by_document || !tokens.document_tokens.empty() || tokens.end_of_document, kWho,
          "the id that ends a document must be known for --by-document, got none with ", tokens.ids.path().string());
  // Of each document one token has none before it.
  const auto documents = std::max<std::int64_t>(1, std::int64_t(tokens.document_tokens.size()));
  most_targets_ = tokens.ids.size() - (tokens.opens_windows ? 0 : documents);
  if (options.max_tokens > 0) most_targets_ = std::min(most_targets_, options.max_tokens);
  left_ = options.max_tokens > 0 ? options.max_tokens : std::numeric_limits<std::int64_t>::max();
}

WindowReader::~WindowReader() = default;

bool WindowReader::next_segment() {
  position_ = segment_end_;
  if (position_ >= tokens_.ids.size()) return false;
  ++segment_;
  if (!tokens_.document_tokens.empty()) {
    segment_end_ = position_ + tokens_.document_tokens[std::size_t(segment_)];
    return true;
  }
  segment_end_ = tokens_.ids.size();
  if (!options_.by_document) return true;
  std::vector<std::int64_t> ids(kScanTokens);
  for (std::int64_t at = position_; at < tokens_.ids.size(); at += kScanTokens) {
    const std::int64_t count = std::min(kScanTokens, tokens_.ids.size() - at);
    tokens_.ids.copy(at, count, ids.data());
    const auto found = std::find(ids.begin(), ids.begin() + count, *tokens_.end_of_document);
    if (found == ids.begin() + count) continue;
    segment_end_ = at + (found - ids.begin()) + 1;
    return true;
  }
  return true;
}

std::optional<WindowReader::Window> WindowReader::next_window() {
  if (left_ <= 0) return std::nullopt;
  const std::int64_t context = tokens_.opens_windows ? 0 : 1;  // tokens of the file before the first target
  while (segment_end_ - position_ < 1 + context)
    if (!next_segment()) return std::nullopt;
  const std::int64_t length = std::min({options_.sequence_length, segment_end_ - context - position_, left_});
  const Window window{position_, length, segment_};
  position_ += length;
  left_ -= length;
  return window;
}

void WindowReader::add(const Window& window, std::int64_t row, WindowBatch& batch, double& bytes) {
  const std::int64_t width = batch.tokens.size(1);
  std::vector<std::int64_t> ids(std::size_t(window.length) + 1);
  if (tokens_.opens_windows) ids[0] = *tokens_.beginning;
  const std::int64_t own = tokens_.opens_windows ? 1 : 0, first_target = window.begin + 1 - own;
  tokens_.ids.copy(window.begin, window.length + 1 - own, ids.data() + own);
  auto* tokens = batch.tokens.mutable_data_ptr<std::int64_t>() + row * width;
  auto* targets = batch.targets.mutable_data_ptr<std::int64_t>() + row * width;
  auto* positions = batch.positions.mutable_data_ptr<std::int64_t>() + row * width;
  auto* documents =
      batch.documents.defined() ? batch.documents.mutable_data_ptr<std::int64_t>() + row * width : nullptr;
  for (std::int64_t at = 0; at < window.length; ++at) {
    tokens[at] = ids[at];
    targets[at] = ids[at + 1];
    positions[at] = at;
    if (!segments_are_documents_ && tokens_.end_of_document) ends_seen_ += ids[at] == *tokens_.end_of_document;
    if (documents) documents[at] = segments_are_documents_ ? window.document : ends_seen_;
  }
  batch.scored += window.length;
  if (!tokens_.lengths) return;
  tokens_.lengths->copy(first_target, window.length, ids.data());
  bytes += double(std::accumulate(ids.begin(), ids.begin() + window.length, std::int64_t(0)));
}

std::optional<WindowBatch> WindowReader::next() {
  std::vector<Window> windows;
  std::int64_t width = 0;
  while (auto window = held_ ? std::exchange(held_, std::nullopt) : next_window()) {
    const std::int64_t wider = std::max(width, window->length);
    if (!windows.empty() && wider * std::int64_t(windows.size() + 1) > options_.batch_tokens) {
      held_ = window;
      break;
    }
    width = wider;
    windows.push_back(*window);
  }
  if (windows.empty()) return std::nullopt;
  const auto rows = std::int64_t(windows.size());
  WindowBatch batch{.tokens = at::zeros({rows, width}, at::kLong),
                    .targets = at::full({rows * width}, -100, at::kLong),
                    .positions = at::zeros({rows * width}, at::kLong)};
  if (segments_are_documents_ || tokens_.end_of_document) batch.documents = at::zeros({rows * width}, at::kLong);
  double bytes = 0;
  for (std::int64_t row = 0; row < rows; ++row) add(windows[row], row, batch, bytes);
  if (tokens_.lengths) batch.bytes = bytes;
  if (!tokens_.lengths && tokens_.bytes_per_token) batch.bytes = *tokens_.bytes_per_token * double(batch.scored);
  return batch;
}

}  // namespace lmhead
