#include "lmhead/kernels/token_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "lmhead/base/error.h"
#include "lmhead/kernels/chunked_cross_entropy.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/tiled_cross_entropy.h"

namespace lmhead {
namespace {
constexpr const char* kWho = "token_statistics";
}

TokenStatistics statistics_of_logits(const at::Tensor& logits, const LinearMap& map, const at::Tensor& targets,
                                     bool with_gradient) {
  const at::Tensor log_p = at::log_softmax(logits, 1);
  TokenStatistics statistics;
  statistics.log_probability = log_p.gather(1, targets.unsqueeze(1)).squeeze(1);
  statistics.logsumexp = at::logsumexp(logits, 1);
  statistics.entropy = -(log_p.exp() * log_p).nan_to_num().sum(1);
  statistics.correct = logits.argmax(1).eq(targets);
  if (!with_gradient) return statistics;
  const at::Tensor logsumexp = statistics.logsumexp.unsqueeze(1);
  const at::Tensor gradient = plain_logit_gradient(
      logits, map.transform, {.shift = logsumexp, .targets = targets, .target = at::ones_like(logsumexp)});
  statistics.logit_gradient_square = gradient.square().sum(1);
  statistics.hidden_gradient = at::mm(gradient, map.weight.to(gradient.scalar_type()));
  return statistics;
}

TokenStatistics kept_statistics(const TokenStatistics& statistics, const at::Tensor& kept) {
  TokenStatistics result = statistics;
  for (auto column : kTokenStatistics) {
    at::Tensor& values = result.*column;
    if (!values.defined()) continue;
    values = at::where(values.dim() == 2 ? kept.unsqueeze(1) : kept, values, at::zeros_like(values));
  }
  return result;
}

TokenStatistics plain_token_statistics(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                       bool with_gradient) {
  return statistics_of_logits(wide_linear_logits(hidden, map), map, targets, with_gradient);
}

TokenStatistics token_statistics(const at::Tensor& hidden, const LinearMap& given_map, const at::Tensor& given_targets,
                                 bool with_gradient) {
  LinearMap map = given_map;
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  const at::Tensor targets = given_targets.contiguous();
  CrossEntropyArguments arguments{hidden.detach(), targets, map, {}};
  arguments.options.reduction = Reduction::kSum;
  arguments.options.ignore_index = -1;  // which no target is
  check_linear_cross_entropy(hidden, map, targets, arguments.options, kWho);
  const WantedStatistics wanted = with_gradient ? WantedStatistics::kAll : WantedStatistics::kScores;
  if (!tiled_kernel_takes(arguments)) return chunked_forward(arguments, {}, wanted).statistics;

  for (std::int64_t row = 0; row < targets.size(0); ++row) {
    const std::int64_t target = targets.const_data_ptr<std::int64_t>()[row];
    require(target >= 0 && target < map.weight.size(0), kWho, "targets must lie in [0, ", map.weight.size(0), "), got ",
            target, " at row ", row);
  }
  return tiled_forward(arguments, {}, 0, wanted).statistics;
}

}  // namespace lmhead
