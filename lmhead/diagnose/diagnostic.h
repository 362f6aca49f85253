// The interface of every diagnostic, the list of all of them, and the one pass over the tokens that they
// share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/diagnose/head_space.h"
#include "lmhead/heads/lm_head.h"
#include "lmhead/kernels/linear_map.h"

namespace lmhead {

/// Tokens to measure. Only `hidden` and `targets` must be there.
struct TokenBatch {
  at::Tensor hidden;                   // [N, D] features after the final norm
  at::Tensor targets;                  // [N] int64; rows with -100 are left out
  at::Tensor documents;                // [N] int64: which document a token is of
  at::Tensor positions;                // [N] int64: how many tokens its context holds before it
  std::optional<double> bytes;         // UTF-8 bytes that the targets stand for
  std::optional<HeadInput> pass = {};  // that gave `hidden`, for heads that look at more than features
};

struct GradientSpectrumOptions {
  std::int64_t tokens = 4096;
  std::int64_t exact_tokens = 32768;
  double sketch_gib = 1;
  std::optional<std::int64_t> sketch_columns;
  void visit_fields(FieldVisitor& visitor);
};

struct UpdateDirectionOptions {
  std::int64_t tokens = 4096;
  std::vector<double> step_sizes = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30};
  void visit_fields(FieldVisitor& visitor);
};

struct LocalRetentionOptions {
  std::int64_t tokens = 256;
  void visit_fields(FieldVisitor& visitor);
};

/// Everything that the diagnostics let a user choose.
struct DiagnosticOptions {
  HeadSpaceOptions head_space;
  GradientSpectrumOptions gradient_spectrum;
  UpdateDirectionOptions update_direction;
  LocalRetentionOptions local_retention;
  void visit_fields(FieldVisitor& visitor);
};

/// What a diagnostic is built from. `map` and `head_space` are there for those that need a linear map, or the head
/// where it has none.
/// `token_counts` [V] int64 says how often each token occurs in some reference text; undefined: the measured
/// targets are counted.
struct DiagnosticContext {
  std::int64_t vocab_size;
  LinearMap map;
  std::shared_ptr<const HeadSpace> head_space;
  at::Tensor token_counts;
  DiagnosticOptions options;
  std::shared_ptr<const LmHead> nonlinear_head = nullptr;
};

/// Figures over tokens that come in batches.
class Diagnostic {
 public:
  virtual ~Diagnostic() = default;
  /// `batch` holds no row without a target, and `energies` are those of its rows. Of a head that is no linear map it
  /// has the whole pass, whose `rows` are the batch's.
  virtual void update(const TokenBatch& batch, const TokenEnergies& energies) = 0;
  /// The figures of all tokens so far under the keys of the glossary; a figure that cannot be known is null.
  /// Throws where a diagnostic of tokens saw none.
  virtual Json result() const = 0;
  virtual void reset() = 0;
};

/// One line of the list of diagnostics.
struct DiagnosticKind {
  const char* name;
  const char* meaning;
  bool needs_linear_map;
  bool only_where_asked;  // of a head that is a linear map: it says nothing new
  std::unique_ptr<Diagnostic> (*make)(const DiagnosticContext& context);
};

/// Every diagnostic there is.
const std::vector<DiagnosticKind>& diagnostic_kinds();

/// Told which diagnostic computes next, by its name, or `energies`, which all of them share.
using DiagnosticProgress = std::function<void(const std::string& name)>;

/// Several diagnostics over one pass: each batch's energies are computed once for all of them.
///
/// Of a head that is no linear map, what is defined for any head is measured: losses, ranks of targets, ||p - y||.
/// There is no column space, so diagnostics of one are left out, and so named in the result.
class DiagnosticSet {
 public:
  /// `names` of the list; empty: all. Throws on an unknown name, naming the nearest.
  explicit DiagnosticSet(const LinearMap& map, const std::vector<std::string>& names = {},
                         const DiagnosticOptions& options = {}, const at::Tensor& token_counts = {});
  /// Of any head; as its linear map where it has one. One that needs more than `hidden` must be given the pass.
  explicit DiagnosticSet(std::shared_ptr<const LmHead> head, const std::vector<std::string>& names = {},
                         const DiagnosticOptions& options = {}, const at::Tensor& token_counts = {});

  void update(const TokenBatch& batch, const DiagnosticProgress& progress = {});
  /// `hidden_size`, `vocab_size`, `tokens`, `left_out` where something is, and an object a diagnostic under its
  /// name.
  Json result(const DiagnosticProgress& progress = {}) const;
  void reset();

 private:
  void make_diagnostics(const std::vector<std::string>& names, const DiagnosticContext& context);

  std::shared_ptr<const HeadSpace> head_space_;   // null for a head that is no linear map,
  std::shared_ptr<const LmHead> nonlinear_head_;  // which is this one
  std::int64_t hidden_size_, vocab_size_;
  std::vector<std::pair<std::string, std::unique_ptr<Diagnostic>>> diagnostics_;
  std::vector<std::string> left_out_;
  std::int64_t tokens_ = 0;
};

/// A finite number, or null.
Json number_or_null(double value);

}  // namespace lmhead
