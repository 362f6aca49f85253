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

/// What the decoder sees of a request.
std::vector<std::int64_t> input_of(const ScoreRequest& request, std::int64_t max_length) {
  std::vector<std::int64_t> ids = request.context;
  ids.insert(ids.end(), request.continuation.begin(), request.continuation.end() - 1);
  const std::int64_t beyond = std::int64_t(ids.size()) - max_length;
  if (beyond > 0) ids.erase(ids.begin(), ids.begin() + beyond);
  return ids;
}

TokenTrees moved(TokenTrees trees, c10::Device device) {
  move_to(device, {&trees.tokens, &trees.positions});
  for (TokenTrees::Tree& tree : trees.trees) move_to(device, {&tree.visible});
  return trees;
}

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
  void score(const LoadedModel& model, std::vector<Score>& scores) const {
    const TokenScores tokens = token_scores(model);
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
  TokenScores token_scores(const LoadedModel& model) const {
    const c10::Device device = model.decoder->embedding()->value.device();
    const auto there = [&](const std::vector<std::int64_t>& ids) {
      return on_device(at::tensor(ids, at::kLong), device);
    };
    const TokenTrees built = moved(trees.build(), device);
    const HeadNeeds needs = model.head->needs();
    std::vector<at::Tensor> layers;
    HeadInput all{.hidden = model.decoder->forward_trees(built, needs.layers.empty() ? nullptr : &layers)};
    for (const std::int64_t block : needs.layers) all.layers.push_back(layers.at(std::size_t(block)));
    const at::Tensor wanted = there(targets);
    if (!keeps_paths) {
      all.rows = there(rows);
      return model.head->token_scores(all, wanted);
    }
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

}  // namespace

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
  ScoringPass pass(*model_.head);
  for (const ScoreRequest& request : requests) {
    const std::vector<std::int64_t> input = input_of(request, max_length_);
    if (!pass.lengths.empty() && pass.trees.rows() + pass.trees.fresh_rows(input) > pass_tokens_) {
      pass.score(model_, scores);
      pass = ScoringPass(*model_.head);
    }
    pass.add(input, request.continuation);
  }
  if (!pass.lengths.empty()) pass.score(model_, scores);
  return scores;
}

}  // namespace lmhead
