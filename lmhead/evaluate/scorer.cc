#include "lmhead/evaluate/scorer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/models/token_trees.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "evaluate";
constexpr std::int64_t kDefaultLength = 2048;  // as in the evaluation harness
/// Passes that go through a block while it is in memory, where it has to be read: their features stay.
constexpr std::size_t kPassesAReading = 4;

/// What the decoder sees of a request.
std::vector<std::int64_t> input_of(const ScoreRequest& request, std::int64_t max_length) {
  std::vector<std::int64_t> ids = request.context;
  ids.insert(ids.end(), request.continuation.begin(), request.continuation.end() - 1);
  const std::int64_t beyond = std::int64_t(ids.size()) - max_length;
  if (beyond > 0) ids.erase(ids.begin(), ids.begin() + beyond);
  return ids;
}

TokenTrees moved(TokenTrees trees, c10::Device device) {
  move_to(device, {&trees.tokens, &trees.positions, &trees.rows});
  for (TokenTrees::Tree& tree : trees.trees) move_to(device, {&tree.visible});
  return trees;
}

}  // namespace

/// Requests on their way through the decoder together.
struct ScoringPass {
  explicit ScoringPass(const LmHead& head) : trees(head.hidden_size()), keeps_paths(head.needs().tokens) {}

  void add(const std::vector<std::int64_t>& input, const std::vector<std::int64_t>& continuation) {
    const std::vector<std::int64_t>& path = trees.add(input);
    if (keeps_paths) paths.push_back(path);
    rows.insert(rows.end(), path.end() - std::int64_t(continuation.size()), path.end());
    targets.insert(targets.end(), continuation.begin(), continuation.end());
    lengths.push_back(std::int64_t(continuation.size()));
  }
  /// Continuations alone are asked about where the head does not look at what comes before them.
  TokenTrees build(c10::Device device) const {
    return moved(trees.build(keeps_paths ? std::vector<std::int64_t>() : rows), device);
  }
  void score(const LoadedModel& model, const TokenTrees& built, const Decoder::BatchFeatures& features,
             std::vector<Score>& scores) const {
    const TokenScores tokens = token_scores(model, built, features);
    const at::Tensor log_probability = tokens.log_probability.to(at::kDouble).cpu().contiguous();
    const at::Tensor correct = tokens.correct.cpu().contiguous();
    const double* value = log_probability.const_data_ptr<double>();
    const bool* is_first = correct.const_data_ptr<bool>();
    for (const std::int64_t length : lengths) {
      Score score{0, true, length};
      for (std::int64_t token = 0; token < length; ++token) {
        score.log_probability += *value++;
        score.is_greedy = *is_first++ && score.is_greedy;
      }
      scores.push_back(score);
    }
  }

  /// Of every target in turn. A head that looks at tokens is given one request's sequence at a time.
  TokenScores token_scores(const LoadedModel& model, const TokenTrees& built,
                           const Decoder::BatchFeatures& features) const {
    const auto there = [&](const std::vector<std::int64_t>& ids) {
      return on_device(at::tensor(ids, at::kLong), built.tokens.device());
    };
    const HeadInput all{.hidden = features.hidden, .layers = features.layers};
    const at::Tensor wanted = there(targets);
    if (!keeps_paths) return model.head->token_scores(all, wanted);
    std::vector<at::Tensor> log_probability, correct;
    std::int64_t first = 0;
    for (std::size_t index = 0; index < paths.size(); ++index) {
      const at::Tensor path = there(paths[index]);
      HeadInput one{.hidden = all.hidden.index_select(0, path),
                    .tokens = built.tokens.index_select(0, path).unsqueeze(0)};
      for (const at::Tensor& layer : all.layers) one.layers.push_back(layer.index_select(0, path));
      one.documents = documents_of(one.tokens, model.text.end_of_document);
      const std::int64_t length = lengths[index];
      const TokenScores scores =
          model.head->token_scores(one.narrow(path.size(0) - length, length), wanted.narrow(0, first, length));
      log_probability.push_back(scores.log_probability);
      correct.push_back(scores.correct);
      first += length;
    }
    return {at::cat(log_probability), at::cat(correct)};
  }

  TokenTreeBuilder trees;
  bool keeps_paths;
  std::vector<std::vector<std::int64_t>> paths;  // rows of each request's tokens, where the head looks at tokens
  std::vector<std::int64_t> rows, targets;       // one a token of a continuation
  std::vector<std::int64_t> lengths;             // one a request
};

std::int64_t longest_input(const LoadedModel& model) {
  const std::int64_t learned = model.decoder ? model.decoder->specification().position_embeddings : 0;
  for (const std::int64_t length : {learned, model.sequence_length, model.max_position_embeddings})
    if (length > 0) return length;
  return kDefaultLength;
}

Scorer::Scorer(LoadedModel model, const ScorerOptions& options)
    : model_(std::move(model)),
      max_length_(options.max_length > 0 ? options.max_length : longest_input(model_)),
      pass_tokens_(options.pass_tokens) {
  require(model_.decoder != nullptr, kWho, "the model must have a decoder, got features alone in ", model_.name);
  const std::int64_t learned = model_.decoder->specification().position_embeddings;
  require(learned == 0 || max_length_ <= learned, kWho, "max_length must be at most the ", learned, " positions of ",
          model_.name, ", got ", max_length_);
}

void Scorer::check(const ScoreRequest& request, std::size_t place) const {
  require(!request.context.empty(), kWho, "the context of request ", place, " must hold at least one token, got none");
  require(!request.continuation.empty(), kWho, "the continuation of request ", place,
          " must hold at least one token, got none");
  require(std::int64_t(request.continuation.size()) <= max_length_, kWho, "the continuation of request ", place,
          " must be no longer than max_length ", max_length_, ", got ", request.continuation.size(), " tokens");
  const std::int64_t vocab_size = model_.head->vocab_size();
  for (const auto* ids : {&request.context, &request.continuation})
    for (const std::int64_t id : *ids)
      require(id >= 0 && id < vocab_size, kWho, "ids of request ", place, " must be at least 0 and below ", vocab_size,
              ", got ", id);
}

std::vector<Score> Scorer::score(const std::vector<ScoreRequest>& requests) const {
  at::NoGradGuard no_grad;
  for (std::size_t place = 0; place < requests.size(); ++place) check(requests[place], place);
  std::vector<Score> scores;
  scores.reserve(requests.size());
  const std::size_t most = model_.decoder->block_source() ? kPassesAReading : 1;
  std::vector<ScoringPass> passes;
  for (const ScoreRequest& request : requests) {
    const std::vector<std::int64_t> input = input_of(request, max_length_);
    if (passes.empty() || passes.back().trees.rows() + passes.back().trees.fresh_rows(input) > pass_tokens_) {
      if (passes.size() == most) run(passes, scores);
      passes.emplace_back(*model_.head);
    }
    passes.back().add(input, request.continuation);
  }
  run(passes, scores);
  return scores;
}

/// Takes all of `passes` through the model, one block after another.
void Scorer::run(std::vector<ScoringPass>& passes, std::vector<Score>& scores) const {
  if (passes.empty()) return;
  std::vector<TokenTrees> trees;
  for (const ScoringPass& pass : passes) trees.push_back(pass.build(model_.decoder->device()));
  const auto features = [&] {
    // One pass at a time is in blocks that are read when it comes to them.
    std::unique_lock lock(*reading_, std::defer_lock);
    if (model_.decoder->block_source()) lock.lock();
    return model_.decoder->forward_trees(trees, model_.head->needs().layers);
  }();
  for (std::size_t index = 0; index < passes.size(); ++index)
    passes[index].score(model_, trees[index], features[index], scores);
  passes.clear();
}

}  // namespace lmhead
