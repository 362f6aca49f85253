// Log probabilities of continuations: what multiple-choice and perplexity tasks ask a model.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "lmhead/models/loaded_model.h"

namespace lmhead {

/// How likely is `continuation` after `context`? Both are ids, and neither is empty.
struct ScoreRequest {
  std::vector<std::int64_t> context, continuation;
};

struct Score {
  double log_probability;  // nats, the sum over the continuation
  bool is_greedy;          // every token of it has the largest logit, and is the first where several have it
  std::int64_t tokens;     // of the continuation
};

struct ScorerOptions {
  std::int64_t max_length = 0;      // tokens that the decoder sees; 0: `longest_input` of the model
  std::int64_t pass_tokens = 4096;  // through the decoder at once, where one request does not need more
};

/// The longest input that a model was made for: its learned positions, what its configuration names, the length that a
/// run was trained on; 2,048 where nothing is known.
std::int64_t longest_input(const LoadedModel& model);

struct ScoringPass;

/// Scores requests under any model and head. Several threads may call one scorer at once.
class Scorer {
 public:
  /// Throws on features without a decoder, and on a `max_length` beyond learned positions.
  explicit Scorer(LoadedModel model, const ScorerOptions& options = {});

  /// Scores in the order of `requests`; log probabilities in float32 or wider, summed in float64.
  ///
  /// What is too long loses its first tokens: the decoder sees the last `max_length` of context and continuation less
  /// its last token. Requests that follow each other share what they begin with, so the choices of one question run its
  /// context once; the head computes continuations alone. Scores differ in their last digits with what is scored beside
  /// them. Memory: a pass of features, never logits of all its tokens; where blocks are read when a pass comes to them
  /// (block_source.h), features of four passes, for which a block is read once. Throws, with the place of the request,
  /// on empty parts, on a continuation longer than `max_length` and on ids outside the vocabulary.
  std::vector<Score> score(const std::vector<ScoreRequest>& requests) const;

  /// Throws where `score` would throw on this request, saying its place.
  void check(const ScoreRequest& request, std::size_t place) const;

  const LoadedModel& model() const { return model_; }
  std::int64_t max_length() const { return max_length_; }

 private:
  void run(std::vector<ScoringPass>& passes, std::vector<Score>& scores) const;

  LoadedModel model_;
  std::int64_t max_length_, pass_tokens_;
  std::unique_ptr<std::mutex> reading_ = std::make_unique<std::mutex>();
};

}  // namespace lmhead
