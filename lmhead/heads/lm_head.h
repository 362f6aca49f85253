// The interface of every LM head: features in, a distribution over the vocabulary or a training loss out.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/base/options.h"
#include "lmhead/heads/head_input.h"
#include "lmhead/kernels/linear_map.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

struct TokenStatistics;
struct HeadContext;

/// What the training loss adds to plain cross-entropy.
struct LossOptions {
  double z_loss = 0;
  double label_smoothing = 0;
  void visit_fields(FieldVisitor& visitor);
};

/// The objective of one pass, and what is worth a line in the log of how it came about.
struct TrainingLoss {
  at::Tensor loss;                                      // 0-dim, float32 (float64 for float64 features)
  std::vector<std::pair<std::string, double>> figures;  // by name; of a step the mean over its micro-batches
};

/// What evaluation needs to know of every token.
struct TokenScores {
  at::Tensor log_probability;  // [M] of the target, float32 or wider
  at::Tensor correct;          // [M] bool: the target has the largest logit, and is the first where several have it
};

/// A map from features to a normalised distribution over the vocabulary, and the loss that it is trained by. M rows are
/// asked for of each input; targets are theirs. Ids outside [0, V) throw where they are seen: in the data room.
class LmHead {
 public:
  virtual ~LmHead() = default;

  /// What the inputs of this head must hold beside features.
  virtual HeadNeeds needs() const { return {}; }

  /// Logits [M, V], whose softmax is the head's distribution; of heads that form probabilities themselves, their
  /// logarithms. Memory: M x V.
  at::Tensor logits(const HeadInput& input) const;
  /// Their logarithms normalised, [M, V] float32 or wider. Memory: twice M x V.
  at::Tensor log_probabilities(const HeadInput& input) const;
  /// -log p of `targets` [M] under the head's distribution, exact over the whole vocabulary and differentiable; float32
  /// or wider.
  at::Tensor token_losses(const HeadInput& input, const at::Tensor& targets) const;
  /// What training follows: of most heads the mean of `token_losses` with the terms of `options`; it may be sampled or
  /// have terms of its own. `statistics`, where given, gets what the same pass knows of every token from heads that
  /// are one linear map; the others leave it as it is.
  TrainingLoss training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options = {},
                             TokenStatistics* statistics = nullptr) const;
  /// The objective alone.
  at::Tensor loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options = {}) const {
    return training_loss(input, targets, options).loss;
  }
  /// Scores of `targets` [M], without gradients.
  TokenScores token_scores(const HeadInput& input, const at::Tensor& targets) const;

  /// The one linear map that gives the logits, where there is one; its weight carries no gradient history.
  virtual std::optional<LinearMap> linear_map() const { return std::nullopt; }
  /// The matrix of that map where it is a parameter of this head alone, else null.
  virtual ParameterPtr own_matrix() const { return nullptr; }
  /// Parameters with a row a word of the vocabulary, also a tied embedding, where several processes may each have the
  /// rows of their words alone (HeadContext::word_processes); else none.
  virtual ParameterList word_rows() const { return {}; }
  /// Whether all of it is here. Of a head whose words are shared out only training losses and scores of tokens can be
  /// asked for, by all processes together.
  virtual bool is_whole() const { return true; }
  /// Floating-point operations of training on one token of a sequence so long, forward and backward: 6 for every number
  /// of a matrix that features are multiplied by (2 forward, 4 backward); elementwise work is left out.
  virtual double flops_per_token(std::int64_t sequence_length) const;
  /// Numbers that a training step keeps of every such token from the forward to the backward pass, beside the input.
  virtual double memory_per_token(std::int64_t) const { return double(hidden_size_); }
  /// Throws where the head's training loss cannot have these terms.
  virtual void check_loss(const LossOptions&) const {}
  /// Called once parameters have been updated at a step of training.
  virtual void after_update(const StepContext&) {}

  const ParameterList& parameters() const { return parameters_; }
  std::int64_t hidden_size() const { return hidden_size_; }
  std::int64_t vocab_size() const { return vocab_size_; }

 protected:
  LmHead(std::int64_t hidden_size, std::int64_t vocab_size) : hidden_size_(hidden_size), vocab_size_(vocab_size) {}
  ParameterPtr own(ParameterPtr parameter);
  /// The matrix of words [V, D]: the embedding's where that is tied, else `lm_head.weight`, of initial values with this
  /// standard deviation.
  ParameterPtr own_words(const HeadContext& context, double deviation);
  /// `parameter` where this head alone has it, else null.
  ParameterPtr if_own(const ParameterPtr& parameter) const;

  // Heads that need no tokens are given the features (and layers) of the rows asked for and nothing else; the others
  // select rows themselves.
  virtual at::Tensor compute_logits(const HeadInput& input) const = 0;
  /// From `compute_logits`; override, for it holds M x V numbers.
  virtual at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const;
  /// From `compute_logits`; override, for it holds M x V numbers.
  virtual TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets,
                                             const LossOptions& options, TokenStatistics* statistics) const;
  /// From `compute_logits` in blocks of rows.
  virtual TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const;

 private:
  HeadInput checked(const HeadInput& input) const;
  HeadInput checked(const HeadInput& input, const at::Tensor& targets) const;

  std::int64_t hidden_size_, vocab_size_;
  ParameterList parameters_;
};

/// The options of one kind of head.
class HeadOptions {
 public:
  virtual ~HeadOptions() = default;
  virtual void visit_fields(FieldVisitor& visitor) = 0;
};

/// What a head is built from beside its own options.
struct HeadContext {
  std::int64_t hidden_size, vocab_size;
  ParameterSource source;
  double initializer_range;            // standard deviation of a head matrix's initial values
  ParameterPtr tied_embedding;         // [V, D], null where the embedding is not tied
  std::int64_t num_hidden_layers = 0;  // of the body
  std::function<at::Tensor()> token_counts =
      {};  // [V] int64 how often each id occurs in the training data; may be empty
  std::function<std::vector<std::string>()> token_bytes =
      {};  // the bytes of text that each id stands for, fewer than V where the rest stand for none; may be empty
  std::function<at::Tensor(const std::string& path)> read_trained_matrix =
      {};                         // [V, D] the head's matrix of a model.safetensors of a checkpoint; may be empty
  Processes word_processes = {};  // that each have the rows of their words of `word_rows`, as `source` and the tied
                                  // embedding then are

  ParameterPtr parameter(const std::string& name, const std::vector<std::int64_t>& shape,
                         const Initializer& initializer, ParameterKind kind = ParameterKind::kHead) const {
    return source(name, kind, shape, initializer, {});
  }
};

/// Beyond any size within a head: what is made of it and of the largest vocabulary stays within 64 bits.
constexpr double kMostHeadSize = 1 << 24;

/// One line of the list of heads.
struct HeadKind {
  const char* type;
  const char* formula;
  const char* cost;    // of training, against the linear head
  const char* memory;  // that a training step holds beside parameters and features
  const char* source;  // of the idea
  std::unique_ptr<HeadOptions> (*make_options)();
  std::unique_ptr<LmHead> (*make)(const HeadOptions& options, const HeadContext& context);
};

/// Every head there is.
const std::vector<HeadKind>& head_kinds();
/// The kind of that name; throws with the nearest known one.
const HeadKind& head_kind(const std::string& type);

/// The choice of a head with its own options, as it stands in a configuration: `{"type": "low_rank", "rank": 16}`.
class HeadSpecification {
 public:
  HeadSpecification();
  explicit HeadSpecification(const std::string& type);
  void visit_fields(FieldVisitor& visitor);
  const std::string& type() const { return type_; }
  std::unique_ptr<LmHead> make(const HeadContext& context) const;

 private:
  std::string type_;
  std::shared_ptr<HeadOptions> options_;  // never changed once read, so copies share it
};

}  // namespace lmhead
