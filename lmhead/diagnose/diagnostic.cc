#include "lmhead/diagnose/diagnostic.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/kinds.h"
#include "lmhead/diagnose/nonlinear_energies.h"
#include "lmhead/diagnose/token_rows.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "diagnose";

/// The rows of an optional column of the batch.
at::Tensor column(const at::Tensor& values, const at::Tensor& rows, std::int64_t count, const char* name) {
  if (!values.defined()) return values;
  require(values.dim() == 1 && values.size(0) == count && values.scalar_type() == at::kLong, kWho, name,
          " must be int64 [", count, "], got ", values.scalar_type(), " ", values.sizes());
  return select_rows(values, rows);
}

}  // namespace

void DiagnosticOptions::visit_fields(FieldVisitor& visitor) {
  visitor.group("head_space", head_space, "how the column space of the head is decided");
  visitor.group("gradient_spectrum", gradient_spectrum, "the spectrum of the logit gradient");
  visitor.group("update_direction", update_direction, "steps of equal length on the logits");
  visitor.group("local_retention", local_retention, "the local map of a head that is no linear map");
}

void LocalRetentionOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("tokens", tokens,
                "measure the first so many, each at the cost of hidden_size forward passes of the head", at_least(1));
}

const std::vector<DiagnosticKind>& diagnostic_kinds() {
  static const std::vector<DiagnosticKind> kinds = {
      {"quality", "loss, perplexity, bits per byte, accuracy", false, false, make_quality},
      {"gradient_retention", "how much logit gradient reaches the backbone", true, false, make_gradient_retention},
      {"local_retention", "the same of the local map at each token, for heads that are no linear map", false, true,
       make_local_retention},
      {"token_breakdown", "where it is lost: by frequency, position, probability, document", false, false,
       make_token_breakdown},
      {"gradient_spectrum", "the rank of the logit gradient, and the best output space for it", true, false,
       make_gradient_spectrum},
      {"update_direction", "the loss after equally long logit steps", true, false, make_update_direction},
      {"head_spectrum", "the head's own singular values and row norms", true, false, make_head_spectrum},
  };
  return kinds;
}

DiagnosticSet::DiagnosticSet(const LinearMap& map, const std::vector<std::string>& names,
                             const DiagnosticOptions& options, const at::Tensor& token_counts)
    : head_space_(std::make_shared<HeadSpace>(map, options.head_space)),
      hidden_size_(head_space_->hidden_size()),
      vocab_size_(head_space_->vocab_size()) {
  make_diagnostics(names, {vocab_size_, map, head_space_, token_counts, options});
}

DiagnosticSet::DiagnosticSet(std::shared_ptr<const LmHead> head, const std::vector<std::string>& names,
                             const DiagnosticOptions& options, const at::Tensor& token_counts)
    : hidden_size_(head->hidden_size()), vocab_size_(head->vocab_size()) {
  LinearMap map;
  if (const auto found = head->linear_map()) {
    map = *found;
    head_space_ = std::make_shared<HeadSpace>(map, options.head_space);
  } else {
    nonlinear_head_ = std::move(head);
  }
  make_diagnostics(names, {vocab_size_, map, head_space_, token_counts, options, nonlinear_head_});
}

void DiagnosticSet::make_diagnostics(const std::vector<std::string>& names, const DiagnosticContext& context) {
  const at::Tensor& token_counts = context.token_counts;
  require(!token_counts.defined() || (token_counts.dim() == 1 && token_counts.size(0) == vocab_size_ &&
                                      token_counts.scalar_type() == at::kLong),
          kWho, "token_counts must be int64 [", vocab_size_, "], got ",
          token_counts.defined() ? token_counts.sizes() : at::IntArrayRef{});
  std::vector<std::string> known;
  for (const DiagnosticKind& kind : diagnostic_kinds()) known.push_back(kind.name);
  for (const std::string& name : names.empty() ? known : names) {
    std::size_t index = 0;
    while (index < known.size() && known[index] != name) ++index;
    if (index == known.size()) {
      std::string all;
      for (const std::string& one : known) all += (all.empty() ? "" : ", ") + one;
      const std::string nearest = nearest_word(name, known);
      fail(kWho, "a diagnostic must be one of ", all, ", got \"", name, '"',
           nearest.empty() ? "" : ", did you mean " + nearest + "?");
    }
    const DiagnosticKind& kind = diagnostic_kinds()[index];
    if (names.empty() && kind.only_where_asked && head_space_) continue;
    if (kind.needs_linear_map && !head_space_) left_out_.push_back(name);
    else diagnostics_.emplace_back(name, kind.make(context));
  }
}

void DiagnosticSet::update(const TokenBatch& batch, const DiagnosticProgress& progress) {
  if (progress) progress("energies");
  const at::Tensor rows = rows_with_target(batch.hidden, batch.targets, hidden_size_, vocab_size_, kWho);
  const std::int64_t count = batch.targets.size(0);
  TokenBatch kept{select_rows(batch.hidden.detach(), rows), select_rows(batch.targets, rows),
                  column(batch.documents, rows, count, "documents"), column(batch.positions, rows, count, "positions"),
                  batch.bytes};
  TokenEnergies energies;
  if (head_space_) {
    energies = head_space_->energies(kept.hidden, kept.targets);
  } else {
    HeadInput pass = batch.pass.value_or(HeadInput{.hidden = batch.hidden});
    pass.rows = rows;
    energies = nonlinear_energies(*nonlinear_head_, pass, kept.targets);
    kept.pass = std::move(pass);
  }
  const double sum =
      energies.total.sum().item<double>() + (head_space_ ? energies.gradient_square.sum().item<double>() : 0);
  require(std::isfinite(sum), kWho, "features, weight and bias must give finite logit gradients, got NaN or infinity");
  for (auto& [name, diagnostic] : diagnostics_) {
    if (progress) progress(name);
    diagnostic->update(kept, energies);
  }
  tokens_ += rows.size(0);
}

Json DiagnosticSet::result(const DiagnosticProgress& progress) const {
  Json result = {{"hidden_size", hidden_size_}, {"vocab_size", vocab_size_}, {"tokens", tokens_}};
  if (!left_out_.empty())
    result["left_out"] = {{"diagnostics", left_out_},
                          {"why", "the head is no linear map, so it has no column space to hold G against"}};
  for (const auto& [name, diagnostic] : diagnostics_) {
    if (progress) progress(name);
    result[name] = diagnostic->result();
  }
  return result;
}

void DiagnosticSet::reset() {
  for (auto& [name, diagnostic] : diagnostics_) diagnostic->reset();
  tokens_ = 0;
}

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace lmhead
