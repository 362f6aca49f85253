// What diagnostics need of every token, from one streaming pass.
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>

#include "lmhead/base/error.h"
#include "lmhead/kernels/cross_entropy_rows.h"

namespace lmhead {
namespace {
constexpr const char* kWho = "token_statistics";
}

TokenStatistics plain_token_statistics(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                       bool with_gradient) {
  const at::ScalarType type = loss_type(hidden.scalar_type());
  const at::Tensor logits = linear_logits(hidden, map).to(type);
  const at::Tensor log_p = at::log_softmax(logits, 1);
  const at::Tensor p = log_p.exp(), index = targets.unsqueeze(1);
  TokenStatistics statistics;
  statistics.log_probability = log_p.gather(1, index).squeeze(1);
  statistics.logsumexp = at::logsumexp(logits, 1);
  statistics.entropy = -(p * log_p).nan_to_num().sum(1);
  statistics.correct = logits.argmax(1).eq(targets);
  if (!with_gradient) return statistics;
  at::Tensor gradient = p.scatter_add(1, index, at::Tensor(-p.new_ones({p.size(0), 1})));
  gradient = gradient * map.logit_scale;
  if (map.logit_softcap > 0) gradient = gradient * (1 - (logits / map.logit_softcap).square());
  statistics.logit_gradient_square = gradient.square().sum(1);
  statistics.hidden_gradient = at::mm(gradient, map.weight.to(type));
  return statistics;
}

TokenStatistics token_statistics(const at::Tensor& given_hidden, const LinearMap& given_map,
                                 const at::Tensor& given_targets, bool with_gradient) {
  const at::Tensor hidden = given_hidden.detach();
  LinearMap map = given_map;
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  check_linear_cross_entropy(hidden, map, given_targets, {}, kWho);
  if (!tiled_kernel_takes({hidden, given_targets, map, {}}))
    return plain_token_statistics(hidden, map, given_targets, with_gradient);

  const at::Tensor targets = given_targets.contiguous();
  const std::int64_t size = targets.size(0);
  for (std::int64_t row = 0; row < size; ++row) {
    const std::int64_t target = targets.const_data_ptr<std::int64_t>()[row];
    require(target >= 0 && target < map.weight.size(0), kWho, "targets must lie in [0, ", map.weight.size(0), "), got ",
            target, " at row ", row);
  }
  CrossEntropyArguments arguments{hidden, targets, map, {}};
  arguments.options.reduction = Reduction::kSum;
  arguments.options.ignore_index = -1;  // which no target is
  return tiled_forward(arguments, {}, 0, with_gradient ? WantedStatistics::kAll : WantedStatistics::kScores).statistics;
}

}  // namespace lmhead
