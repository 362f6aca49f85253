#include "lmhead/heads/head_gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/heads/weight_gradient_rule.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "head_gradient";

double norm_of(const at::Tensor& tensor) {
  return at::linalg_vector_norm(tensor, 2, c10::nullopt, /*keepdim=*/false, at::kDouble).item<double>();
}

/// Adds the time until its end to `seconds`.
class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds) {}
  ~Timer() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

double GradientComparison::add(const at::Tensor& exact, const at::Tensor& changed, bool match,
                               const Processes& processes) {
  const auto whole_norm = [&](const at::Tensor& part) {
    const double norm = norm_of(part);
    return processes.alone() ? norm : std::sqrt(processes.sum(norm * norm));
  };
  const double exact_norm = whole_norm(exact), norm = whole_norm(changed);
  const double factor = match && norm > 0 ? exact_norm / norm : 1;
  exact_square += exact_norm * exact_norm;
  unmatched_square += norm * norm;
  sent_square += factor * factor * norm * norm;
  product += factor * processes.sum((exact * changed).sum(at::kDouble).item<double>());
  return factor;
}

Json GradientComparison::figures() const {
  const double norms = std::sqrt(exact_square * sent_square);
  return {{"cosine", norms > 0 ? Json(product / norms) : Json(nullptr)},
          {"norm_ratio", exact_square > 0 ? Json(std::sqrt(unmatched_square / exact_square)) : Json(nullptr)}};
}

std::unique_ptr<HeadGradient> HeadGradient::make(const HeadGradientOptions& options, const LmHead& head,
                                                 const LossOptions& loss, const GradientRuleContext& context,
                                                 std::int64_t layers) {
  const HeadPenaltyOptions& penalties = options.penalties;
  const bool has_penalty = penalties.orthogonality > 0 || penalties.alignment > 0;
  const bool changes_head = options.weight.rule != "exact" || has_penalty;
  require(
      !changes_head || head.own_matrix(), kWho,
      options.weight.rule != "exact" ? "head_gradient.weight.rule must be exact" : "head_gradient.penalties must be 0",
      " for a head without one matrix of its own (tied, factorised or not linear), got ",
      options.weight.rule != "exact" ? options.weight.rule : "a penalty");
  require(options.weight.rule == "exact" || !has_penalty, kWho,
          "head_gradient.weight.rule must be exact with penalties, which it would change too, got ",
          options.weight.rule);
  require(options.hidden.rule == "exact" || options.hidden.at == "features" || layers >= 2, kWho,
          "head_gradient.hidden.at must be features for a model of fewer than 2 layers, got ", options.hidden.at);
  auto made = std::unique_ptr<HeadGradient>(new HeadGradient(options, head, loss, context));
  return options.is_plain_backpropagation() ? nullptr : std::move(made);
}

HeadGradient::HeadGradient(const HeadGradientOptions& options, const LmHead& head, const LossOptions& loss,
                           const GradientRuleContext& context)
    : options_(options),
      head_(head),
      context_(context),
      weight_(head.own_matrix()),
      hidden_(make_hidden_gradient_rule(options.hidden, context)) {
  if (options.weight.rule == "whitened" && options.weight.changes_something())
    whitening_.emplace("head_gradient.weight.matrix", context.hidden_size, options.weight.refresh_every,
                       context.device);
  pass_.loss = loss;
  pass_.seed = context.seed;
  pass_.processes = context.processes;
}

void HeadGradient::attach(std::int64_t step, std::int64_t part, std::int64_t parts, const at::Tensor& hidden,
                          const std::vector<at::Tensor>& layers, const at::Tensor& targets, std::int64_t rows_before,
                          std::int64_t rows_of_all) {
  const Timer timer(seconds_);
  if (part == 0) {
    hidden_comparison_ = weight_comparison_ = {};
    alignment_gradient_.reset();
    alignment_ = 0;
    ++steps_;
  }
  parts_ = double(parts);
  pass_.step = step;
  pass_.part = part;
  pass_.hidden = hidden.detach();
  pass_.targets = targets;
  pass_.map = head_.linear_map();
  pass_.rows_before = rows_before;
  pass_.rows_of_all = rows_of_all;
  pass_.tokens_per_gradient = double(rows_of_all) * parts_;
  pass_.feature_gradient.reset();
  const bool at_features = !needs_layers();
  hidden.register_hook([this, at_features](const at::Tensor& gradient) {
    see_features(gradient);
    return at_features && hidden_ ? change_hidden(gradient) : gradient;
  });
  if (!at_features)
    layers.at(layers.size() - 2).register_hook([this](const at::Tensor& gradient) { return change_hidden(gradient); });
}

void HeadGradient::see_features(const at::Tensor& gradient) {
  at::NoGradGuard no_grad;
  const Timer timer(seconds_);
  pass_.feature_gradient = gradient.detach().to(at::kFloat);
  if (!is_finite(pass_.feature_gradient)) return;  // the trainer says so, and better
  if (whitening_)
    whitening_->at_pass(pass_, [&] {
      return inverse_power(whitening_matrix(options_.weight.matrix, pass_, pass_.feature_gradient),
                           options_.weight.exponent, options_.weight.damping);
    });
  if (options_.penalties.alignment > 0) {
    const Penalty penalty = alignment_penalty(pass_);
    alignment_ += penalty.value / parts_;
    const at::Tensor share = penalty.gradient / parts_;
    alignment_gradient_ = alignment_gradient_.defined() ? alignment_gradient_ + share : share;
  }
}

bool HeadGradient::is_finite(const at::Tensor& gradient) const {
  return !pass_.processes.any(!std::isfinite(norm_of(gradient)));
}

at::Tensor HeadGradient::change_hidden(const at::Tensor& gradient) {
  at::NoGradGuard no_grad;
  const Timer timer(seconds_);
  const at::Tensor exact = gradient.detach().to(at::kFloat);
  if (!is_finite(exact)) return gradient;
  const at::Tensor changed = hidden_->apply(exact, pass_);
  if (changed.is_same(exact)) {
    hidden_comparison_.add(exact, exact, false, pass_.processes);
    return gradient;
  }
  const double factor = hidden_comparison_.add(exact, changed, options_.hidden.match_rms, pass_.processes);
  return (factor == 1 ? changed : changed * factor).to(gradient.scalar_type());
}

void HeadGradient::change_head(const ParameterList& parameters, std::vector<at::Tensor>& gradients) {
  at::NoGradGuard no_grad;
  const Timer timer(seconds_);
  if (!weight_) return;
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    if (parameters[index] != weight_ || !gradients[index].defined()) continue;
    at::Tensor& gradient = gradients[index];
    const at::Tensor weight = weight_->value.detach();
    if (options_.penalties.orthogonality > 0) {
      const Penalty penalty = orthogonality_penalty(weight);
      orthogonality_ = penalty.value;
      gradient = gradient + options_.penalties.orthogonality * penalty.gradient;
    }
    if (alignment_gradient_.defined()) gradient = gradient + options_.penalties.alignment * alignment_gradient_;
    if (options_.weight.rule == "exact" || !std::isfinite(norm_of(gradient))) continue;
    const at::Tensor changed = options_.weight.rule == "parallel" ? project_on_columns(weight, gradient)
                               : options_.weight.rule == "perpendicular"
                                   ? gradient - project_on_columns(weight, gradient)
                                   : whiten(gradient);
    const double factor =
        weight_comparison_.add(gradient, changed, options_.weight.match_rms && !changed.is_same(gradient));
    gradient = factor == 1 ? changed : changed * factor;
  }
}

at::Tensor HeadGradient::whiten(const at::Tensor& gradient) const {
  return whitening_ ? at::mm(gradient, whitening_->value()) : gradient;
}

std::vector<std::pair<std::string, at::Tensor>> HeadGradient::state() const {
  std::vector<std::pair<std::string, at::Tensor>> state;
  if (hidden_) state = hidden_->state();
  if (whitening_)
    for (auto& named : whitening_->state()) state.push_back(std::move(named));
  return state;
}

Json HeadGradient::figures() {
  Json json = Json::object();
  if (hidden_) json["hidden"] = hidden_comparison_.figures();
  if (options_.weight.rule != "exact") json["weight"] = weight_comparison_.figures();
  if (options_.penalties.orthogonality > 0) json["penalties"]["orthogonality"] = orthogonality_;
  if (options_.penalties.alignment > 0) json["penalties"]["alignment"] = alignment_;
  json["seconds_per_step"] = steps_ > 0 ? seconds_ / double(steps_) : 0;
  seconds_ = 0;
  steps_ = 0;
  return json;
}

}  // namespace lmhead
