// The interface of every LM head: features in, logits or loss out.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/base/options.h"
#include "lmhead/kernels/linear_map.h"

namespace lmhead {

struct TokenStatistics;

/// What a head may look at. Only `hidden` is always there.
struct HeadInput {
  at::Tensor hidden;               // [N, D] features after the final norm
  at::Tensor tokens;               // [B, T] input ids (heads that copy or partition)
  std::vector<at::Tensor> layers;  // [N, D] by depth, on request (heads that tap several depths)
};

/// What the training loss adds to plain cross-entropy.
struct LossOptions {
  double z_loss = 0;
  double label_smoothing = 0;
  void visit_fields(FieldVisitor& visitor);
};

/// What evaluation needs to know of every token.
struct TokenScores {
  at::Tensor log_probability;  // [N] of the target, float32 or wider
  at::Tensor correct;          // [N] bool: the target has the largest logit, and is the first where several have it
};

/// A map from features to a normalised distribution over the vocabulary.
class LmHead {
 public:
  virtual ~LmHead() = default;

  /// Logits [N, V]; their softmax is the head's distribution. Memory: N x V.
  at::Tensor logits(const HeadInput& input) const;
  /// Mean loss over the rows of `targets` [N], 0-dim float32 (float64 for float64 features). Ids outside [0, V) throw
  /// where they are seen: in the data room. `statistics`, where given, gets what the same pass knows of every token
  /// from heads that are one linear map; the others leave it as it is.
  at::Tensor loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options = {},
                  TokenStatistics* statistics = nullptr) const;
  /// Scores of `targets` [N], without gradients.
  TokenScores token_scores(const HeadInput& input, const at::Tensor& targets) const;
  /// The one linear map that gives the logits, where there is one; its weight carries no gradient history.
  virtual std::optional<LinearMap> linear_map() const { return std::nullopt; }

  const ParameterList& parameters() const { return parameters_; }
  std::int64_t hidden_size() const { return hidden_size_; }
  std::int64_t vocab_size() const { return vocab_size_; }

 protected:
  LmHead(std::int64_t hidden_size, std::int64_t vocab_size) : hidden_size_(hidden_size), vocab_size_(vocab_size) {}
  ParameterPtr own(ParameterPtr parameter);

 private:
  virtual at::Tensor compute_logits(const HeadInput& input) const = 0;
  /// Plain composition of `compute_logits`; override to be fast.
  virtual at::Tensor compute_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                  TokenStatistics* statistics) const;
  /// From `compute_logits`; override to be fast.
  virtual TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const;
  void check(const HeadInput& input) const;

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
  ParameterFactory factory;
  double initializer_range;     // standard deviation of a head matrix's initial values
  ParameterPtr tied_embedding;  // [V, D], null where the embedding is not tied
};

/// One line of the list of heads.
struct HeadKind {
  const char* type;
  const char* formula;
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
