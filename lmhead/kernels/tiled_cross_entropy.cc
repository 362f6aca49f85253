// The arithmetic of a row's loss around the streaming LogitPass.
#include "lmhead/kernels/tiled_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/readable_tensor.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_cross_entropy";

/// The rows whose target counts, packed together, and each row's weights.
class KeptRows {
 public:
  explicit KeptRows(const CrossEntropyArguments& arguments) : arguments_(arguments), options_(arguments.options) {
    vocab_size_ = arguments.map.weight.size(0);
    if (arguments.has_probabilities()) {
      rows_.resize(arguments.targets.size(0));
      std::iota(rows_.begin(), rows_.end(), 0);
      sum_probabilities();
    } else {
      keep_counted_targets();
    }
    if (arguments.has_probabilities()) {
      class_weight_.assign(rows_.size(), 1.0);
    } else if (options_.class_weight.defined()) {
      const at::Tensor weights = options_.class_weight.detach().to(at::kDouble).contiguous();
      const double* weight = weights.const_data_ptr<double>();
      for (std::int64_t id = 0; id < vocab_size_; ++id) class_weight_sum_ += weight[id];
      for (std::int64_t target : targets_) class_weight_.push_back(weight[target]);
    } else {
      class_weight_sum_ = static_cast<double>(vocab_size_);
      class_weight_.assign(targets_.size(), 1.0);
    }
    token_weight_ = numbers_of_rows(options_.token_weight);
    if (token_weight_.empty()) token_weight_.assign(rows_.size(), 1.0);
    inverse_temperature_ = numbers_of_rows(options_.temperature);
    for (double& number : inverse_temperature_) number = 1 / number;
    for (double weight : class_weight_) total_weight_ += weight;
  }

  bool all() const { return static_cast<std::int64_t>(rows_.size()) == arguments_.targets.size(0); }
  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  std::int64_t row(std::int64_t kept) const { return rows_[kept]; }
  /// What the sum of losses is divided by.
  double denominator() const { return options_.reduction == Reduction::kMean ? total_weight_ : 1; }
  /// `packed` [kept, ...] at the rows where it belongs, zeros elsewhere.
  at::Tensor unpacked(const at::Tensor& packed) const {
    if (all() || !packed.defined()) return packed;
    std::vector<std::int64_t> sizes = packed.sizes().vec();
    sizes[0] = arguments_.targets.size(0);
    at::Tensor whole = at::zeros(sizes, packed.options());
    return whole.index_copy_(0, index(), packed);
  }

  double loss(std::int64_t kept, const RowOutcome& outcome) const {
    const double smoothing = options_.label_smoothing;
    double loss = outcome.weighted;
    if (!arguments_.has_probabilities()) {
      loss = (1 - smoothing) * class_weight_[kept] * (outcome.logsumexp - outcome.target_logit);
      if (smoothing != 0) loss += smoothing / static_cast<double>(vocab_size_) * outcome.weighted;
    }
    if (options_.z_loss != 0) loss += options_.z_loss * outcome.logsumexp * outcome.logsumexp;
    return loss * token_weight_[kept];
  }
  /// Factors of the gradient of `upstream` times the row's loss.
  RowFactors factors(std::int64_t kept, double max, double logsumexp, double upstream) const {
    const double smoothing = options_.label_smoothing, classes = static_cast<double>(vocab_size_);
    double scale = upstream * token_weight_[kept] * arguments_.map.transform.scale;
    if (!inverse_temperature_.empty()) scale *= inverse_temperature_[kept];
    if (arguments_.has_probabilities()) {
      const double probability = probability_sum_[kept] + 2 * options_.z_loss * logsumexp;
      return {max, logsumexp, scale * probability, 0, scale};
    }
    const double target = (1 - smoothing) * class_weight_[kept];
    const double probability = target + smoothing * class_weight_sum_ / classes + 2 * options_.z_loss * logsumexp;
    return {max, logsumexp, scale * probability, scale * target, scale * smoothing / classes};
  }

  LogitPass pass(const WantedGradients& wanted) const {
    LogitPass pass;
    pass.hidden = arguments_.hidden.detach();
    pass.hidden = all() ? pass.hidden.contiguous() : pass.hidden.index_select(0, index());
    pass.map = arguments_.map;
    pass.map.weight = arguments_.map.weight.detach().contiguous();
    if (arguments_.has_probabilities()) {
      pass.class_probabilities = arguments_.targets;
      pass.label_smoothing = options_.label_smoothing;
    } else {
      pass.targets = targets_.data();
    }
    pass.inverse_temperature = inverse_temperature_;
    pass.class_weight = options_.class_weight;
    pass.wants_hidden = wanted.hidden, pass.wants_weight = wanted.weight, pass.wants_bias = wanted.bias;
    return pass;
  }
  CrossEntropyGradients gradients(const LogitPass& pass, const WantedGradients& wanted) const {
    CrossEntropyGradients gradients;
    if (wanted.hidden) gradients.hidden = unpacked(pass.d_hidden.to(arguments_.hidden.scalar_type()));
    if (pass.wants_weight) gradients.weight = pass.d_weight.to(arguments_.map.weight.scalar_type());
    if (pass.wants_bias) gradients.bias = pass.d_bias.to(arguments_.map.bias.scalar_type());
    return gradients;
  }

 private:
  void keep_counted_targets() {
    const at::Tensor targets = arguments_.targets.contiguous();
    const std::int64_t* ids = targets.const_data_ptr<std::int64_t>();
    const std::int64_t size = targets.size(0);
    rows_.reserve(size), targets_.reserve(size);
    for (std::int64_t row = 0; row < size; ++row) {
      if (ids[row] == options_.ignore_index) continue;
      require(ids[row] >= 0 && ids[row] < vocab_size_, kWho, "targets must be below ", vocab_size_, " or ignore_index ",
              options_.ignore_index, ", got ", ids[row], " at row ", row);
      rows_.push_back(row), targets_.push_back(ids[row]);
    }
  }
  void sum_probabilities() {
    const at::Tensor given = arguments_.targets.detach(), weights = options_.class_weight;
    const double smoothing = options_.label_smoothing;
    double uniform = 1;
    at::Tensor sums = given.sum(1, /*keepdim=*/false, at::kDouble);
    if (weights.defined()) {
      uniform = weights.mean(at::kDouble).item<double>();
      sums = at::mv(given, weights.detach().to(given.scalar_type())).to(at::kDouble);
    }
    sums = sums * (1 - smoothing) + smoothing * uniform;
    probability_sum_.assign(sums.const_data_ptr<double>(), sums.const_data_ptr<double>() + sums.numel());
  }
  /// `given` [N] at the rows that are kept; empty where undefined.
  std::vector<double> numbers_of_rows(const at::Tensor& given) const {
    if (!given.defined()) return {};
    const at::Tensor numbers = given.detach().to(at::kDouble).contiguous();
    std::vector<double> result(rows_.size());
    for (std::size_t row = 0; row < rows_.size(); ++row) result[row] = numbers.const_data_ptr<double>()[rows_[row]];
    return result;
  }
  at::Tensor index() const {
    at::Tensor index = at::empty({size()}, at::kLong);
    std::copy(rows_.begin(), rows_.end(), index.mutable_data_ptr<std::int64_t>());
    return index;
  }

  const CrossEntropyArguments& arguments_;
  const LinearCrossEntropyOptions& options_;
  std::int64_t vocab_size_;
  std::vector<std::int64_t> rows_, targets_;
  std::vector<double> class_weight_, token_weight_;
  std::vector<double> inverse_temperature_;  // or empty
  std::vector<double> probability_sum_;      // of class weight times probability, where there are probabilities
  double class_weight_sum_ = 0, total_weight_ = 0;
};

/// What rows say of themselves; different rows may be set from different threads.
class RowStatistics {
 public:
  explicit RowStatistics(std::int64_t rows)
      : log_probability_(at::empty({rows}, at::kDouble)),
        logsumexp_(at::empty({rows}, at::kDouble)),
        entropy_(at::empty({rows}, at::kDouble)),
        correct_(at::empty({rows}, at::kBool)) {}

  void set(std::int64_t row, const RowOutcome& outcome) {
    log_probability_.mutable_data_ptr<double>()[row] = outcome.target_logit - outcome.logsumexp;
    logsumexp_.mutable_data_ptr<double>()[row] = outcome.logsumexp;
    entropy_.mutable_data_ptr<double>()[row] = outcome.entropy;
    correct_.mutable_data_ptr<bool>()[row] = outcome.correct;
  }
  TokenStatistics take(at::ScalarType type) const {
    return {log_probability_.to(type), logsumexp_.to(type), entropy_.to(type), correct_, {}, {}};
  }

 private:
  at::Tensor log_probability_, logsumexp_, entropy_, correct_;
};

}  // namespace

bool is_plain_cross_entropy(const CrossEntropyArguments& arguments) {
  const LinearCrossEntropyOptions& options = arguments.options;
  return options.label_smoothing == 0 && options.z_loss == 0 && !options.class_weight.defined() &&
         !options.token_weight.defined() && !options.temperature.defined() && !arguments.has_probabilities();
}

bool tiled_kernel_takes(const CrossEntropyArguments& arguments) {
  return arguments.hidden.is_cpu() && has_kernel_type(arguments.hidden);
}

CrossEntropyForward tiled_forward(const CrossEntropyArguments& arguments, const WantedGradients& wanted,
                                  double filter_threshold, WantedStatistics statistics) {
  const KeptRows kept(arguments);
  const std::int64_t size = arguments.hidden.size(0);
  at::Tensor losses = at::zeros({size}, at::kDouble);
  CrossEntropyForward result;
  result.row_sums = at::zeros({size, 2}, at::kDouble);
  double* loss = losses.mutable_data_ptr<double>();
  double* row_sums = result.row_sums.mutable_data_ptr<double>();
  const double upstream = 1 / kept.denominator();

  LogitPass pass = kept.pass(wanted);
  pass.filter_threshold = filter_threshold;
  pass.wants_weighted = arguments.options.label_smoothing != 0 || arguments.has_probabilities();
  const bool shares_gradient = filter_threshold <= 0 && is_plain_cross_entropy(arguments);
  std::optional<RowStatistics> of_rows;
  if (statistics == WantedStatistics::kScores || (statistics == WantedStatistics::kAll && shares_gradient)) {
    of_rows.emplace(kept.size());
    pass.wants_more = true;
    if (statistics == WantedStatistics::kAll) pass.wants_hidden = pass.wants_squares = true;
  }
  pass.on_row = [&](std::int64_t row, const RowOutcome& outcome) {
    loss[kept.row(row)] = kept.loss(row, outcome);
    row_sums[2 * kept.row(row)] = outcome.max;
    row_sums[2 * kept.row(row) + 1] = outcome.logsumexp;
    if (of_rows) of_rows->set(row, outcome);
    return kept.factors(row, outcome.max, outcome.logsumexp, upstream);
  };
  pass.run();

  const at::ScalarType type = loss_type(arguments.hidden.scalar_type());
  if (arguments.options.reduction == Reduction::kNone) {
    result.loss = losses.to(type);
  } else {
    double sum = 0;
    for (std::int64_t row = 0; row < size; ++row) sum += loss[row];
    result.loss = at::empty({}, type);
    const double mean = sum / kept.denominator();
    // A float64 beyond float32 is an infinite loss; ATen would refuse to fill with it.
    result.loss.fill_(result.loss.scalar_type() == at::kDouble ? mean : double(float(mean)));
  }
  result.gradients = kept.gradients(pass, wanted);
  result.filter = {pass.tiles_seen, pass.tiles_skipped, std::sqrt(pass.skipped_square_sum)};
  if (of_rows) {
    TokenStatistics found = of_rows->take(type);
    if (statistics == WantedStatistics::kAll) {
      // What the pass formed is the gradient of the loss; a token's own is that times the divisor of the mean.
      const double divisor = kept.denominator();
      found.logit_gradient_square = (pass.squares * (divisor * divisor)).to(type);
      found.hidden_gradient = divisor == 1 && !wanted.hidden ? pass.d_hidden : pass.d_hidden * divisor;
    }
    for (auto column : kTokenStatistics) found.*column = kept.unpacked(found.*column);
    result.statistics = found;
  } else if (statistics == WantedStatistics::kAll) {
    CrossEntropyArguments plain{arguments.hidden, arguments.targets, arguments.map, {}};
    plain.options.ignore_index = arguments.options.ignore_index;
    plain.options.reduction = Reduction::kSum;
    result.statistics = tiled_forward(plain, {}, 0, statistics).statistics;
  }
  return result;
}

CrossEntropyGradients tiled_backward(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                     const at::Tensor& row_sums, const WantedGradients& wanted) {
  const KeptRows kept(arguments);
  const at::Tensor given = upstream.detach().to(at::kDouble).contiguous(), sums = row_sums.contiguous();
  const double* above = given.const_data_ptr<double>();
  const bool per_token = arguments.options.reduction == Reduction::kNone;
  LogitPass pass = kept.pass(wanted);
  for (std::int64_t row = 0; row < kept.size(); ++row) {
    const double factor = per_token ? above[kept.row(row)] : above[0] / kept.denominator();
    const double* of_row = sums.const_data_ptr<double>() + 2 * kept.row(row);
    pass.factors.push_back(kept.factors(row, of_row[0], of_row[1], factor));
  }
  pass.run();
  return kept.gradients(pass, wanted);
}

}  // namespace lmhead
