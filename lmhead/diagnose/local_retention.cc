// Of a head that is no linear map: how much of each token's logit gradient its local map lets through.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_make_dual.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/kinds.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "local_retention";
constexpr double kRankCutoff = 1e-6;  // as of a float32 W: logits and their derivatives are float32
constexpr std::int64_t kBlockNumbers = std::int64_t(1) << 24;

/// A level of forward-mode differentiation, left whatever happens.
class DualLevel {
 public:
  DualLevel() : level_(torch::autograd::forward_ad::enter_dual_level()) {}
  ~DualLevel() { torch::autograd::forward_ad::exit_dual_level(level_); }
  DualLevel(const DualLevel&) = delete;
  DualLevel& operator=(const DualLevel&) = delete;
  std::uint64_t index() const { return level_; }

 private:
  std::uint64_t level_;
};

/// `count` copies of the pass that holds `row` alone, or of the whole sequence around it where the head looks at
/// tokens; `rows` are those of `row` in each.
HeadInput copies_around(const HeadInput& pass, std::int64_t row, std::int64_t count, bool sees_context) {
  const std::int64_t length = sees_context ? pass.tokens.size(1) : 1, first = row / length * length;
  const auto copies = [&](const at::Tensor& rows) { return rows.narrow(0, first, length).repeat({count, 1}); };
  HeadInput input{.hidden = copies(pass.hidden)};
  for (const at::Tensor& layer : pass.layers) input.layers.push_back(copies(layer));
  if (!sees_context) return input;
  const auto sequence = [&](const at::Tensor& ids) { return ids.narrow(0, first / length, 1).repeat({count, 1}); };
  input.tokens = sequence(pass.tokens);
  if (pass.documents.defined()) input.documents = sequence(pass.documents);
  input.rows = at::arange(count, pass.tokens.options()) * length + (row - first);
  return input;
}

/// J^T [D, V] = (d logits / d h)^T of the token in `row`, by its own features alone, and its logits [V].
struct LocalMap {
  at::Tensor transposed, logits;
};
LocalMap local_map(const LmHead& head, const HeadInput& pass, std::int64_t row) {
  const bool sees_context = head.needs().tokens;
  const std::int64_t width = head.hidden_size(), length = sees_context ? pass.tokens.size(1) : 1;
  const std::int64_t step =
      std::clamp<std::int64_t>(kBlockNumbers / (length * std::max(width, length) + head.vocab_size()), 1, width);
  const at::Tensor directions = at::eye(width, pass.hidden.options());
  LocalMap map{at::zeros({width, head.vocab_size()}, pass.hidden.options().dtype(at::kDouble)), {}};
  for (std::int64_t first = 0; first < width; first += step) {
    const std::int64_t count = std::min(step, width - first);
    HeadInput input = copies_around(pass, row, count, sees_context);
    at::Tensor tangent = at::zeros_like(input.hidden);
    tangent.index_copy_(0, sees_context ? input.rows : at::arange(count, directions.options().dtype(at::kLong)),
                        directions.narrow(0, first, count));
    const DualLevel level;
    input.hidden = at::_make_dual(input.hidden, tangent, std::int64_t(level.index()));
    const at::Tensor logits = head.logits(input);
    const at::Tensor& change = logits._fw_grad(level.index());
    if (change.defined()) map.transposed.narrow(0, first, count).copy_(change);
    map.logits = logits._fw_primal(std::int64_t(level.index()))[0].to(at::kDouble);
  }
  return map;
}

class LocalRetention : public Diagnostic {
 public:
  explicit LocalRetention(const DiagnosticContext& context)
      : head_(context.nonlinear_head), head_space_(context.head_space), most_(context.options.local_retention.tokens) {}

  void update(const TokenBatch& batch, const TokenEnergies& energies) override {
    at::NoGradGuard no_grad;
    const std::int64_t count = std::min(most_ - sums_.tokens, batch.targets.size(0));
    for (std::int64_t index = 0; index < count; ++index) {
      if (head_)
        add(*batch.pass, batch.pass->rows[index].item<std::int64_t>(), batch.targets[index].item<std::int64_t>());
      else add(energies, index);
    }
  }
  Json result() const override;
  void reset() override { sums_ = {}; }

 private:
  void add(const HeadInput& pass, std::int64_t row, std::int64_t target);
  /// Of a linear map, which is its own local map.
  void add(const TokenEnergies& energies, std::int64_t index) {
    const auto of = [&](const at::Tensor& values) { return values[index].item<double>(); };
    add(of(energies.total), of(energies.retained), of(energies.gradient_square), of(energies.step_square),
        head_space_->rank());
  }
  void add(double total, double retained, double gradient_square, double step_square, std::int64_t rank) {
    sums_.tokens += 1;
    sums_.total += total;
    sums_.retained += retained;
    sums_.by_chance += total * double(rank);
    sums_.gradient_square += gradient_square;
    sums_.step_square += step_square;
    sums_.rank += double(rank);
  }

  std::shared_ptr<const LmHead> head_;           // or null,
  std::shared_ptr<const HeadSpace> head_space_;  // and then this
  std::int64_t most_;
  struct {
    std::int64_t tokens = 0;
    double total = 0, retained = 0, by_chance = 0, gradient_square = 0, step_square = 0, rank = 0;
  } sums_;
};

void LocalRetention::add(const HeadInput& pass, std::int64_t row, std::int64_t target) {
  const LocalMap map = local_map(*head_, pass, row);
  at::Tensor gradient = at::softmax(map.logits, 0);
  gradient[target] -= 1;
  const at::Tensor gram = at::mm(map.transposed, map.transposed.t()), passed = at::mv(map.transposed, gradient);
  require(std::isfinite(passed.sum().item<double>()), kWho, "logits and their derivatives must be finite, got others");
  const auto [values, vectors] = at::linalg_eigh(gram);  // ascending
  const at::Tensor counts = values.gt(values[-1].clamp_min(0) * (kRankCutoff * kRankCutoff));
  const at::Tensor parts = at::mv(vectors.t(), passed).square();
  const at::Tensor kept = counts.logical_and(values.gt(0));
  add(gradient.square().sum().item<double>(), (parts / values).masked_fill(kept.logical_not(), 0).sum().item<double>(),
      parts.sum().item<double>(), (parts * values).sum().item<double>(), kept.sum().item<std::int64_t>());
}

Json LocalRetention::result() const {
  require(sums_.tokens > 0, kWho, "at least one token with a target must have been seen, got none");
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  const std::int64_t vocab_size = head_ ? head_->vocab_size() : head_space_->vocab_size();
  const double energy = sums_.total > 0 ? std::clamp(sums_.retained / sums_.total, 0.0, 1.0) : kUnknown;
  const double by_chance = sums_.total > 0 ? sums_.by_chance / (sums_.total * double(vocab_size)) : kUnknown;
  const double norms = std::sqrt(sums_.step_square * sums_.total);
  const double destroyed = std::sqrt(1 - energy), null = std::sqrt(std::max(0.0, 1 - by_chance));
  return {{"retained_energy", number_or_null(energy)},
          {"null_retained_energy", number_or_null(by_chance)},
          {"destroyed_ratio", number_or_null(destroyed)},
          {"null_destroyed_ratio", number_or_null(null)},
          {"destroyed_excess", number_or_null(destroyed - null)},
          {"step_cosine", norms > 0 ? std::min(sums_.gradient_square / norms, 1.0) : 0.0},
          {"mean_rank", sums_.rank / double(sums_.tokens)},
          {"tokens", sums_.tokens}};
}

}  // namespace

std::unique_ptr<Diagnostic> make_local_retention(const DiagnosticContext& context) {
  return std::make_unique<LocalRetention>(context);
}

}  // namespace lmhead
