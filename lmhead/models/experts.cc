#include "lmhead/models/experts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include "lmhead/base/error.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {

at::Tensor mix_experts(const at::Tensor& input, const ExpertWeights& weights, const ExpertChoice& choice,
                       const std::function<at::Tensor(const at::Tensor&)>& activate) {
  const std::int64_t experts = weights.router.size(0), width = input.size(1);
  require(choice.per_token >= 1 && choice.per_token <= experts, "decoder", "experts per token must be from 1 to ",
          experts, ", got ", choice.per_token);
  const at::Tensor x = input.to(weights.router.scalar_type());
  const auto [likeliest, chosen] =
      at::topk(at::softmax(at::linear(x, weights.router), -1, at::kFloat), choice.per_token, -1);
  const at::Tensor shares =
      (choice.is_normalised ? likeliest / likeliest.sum(-1, true) : likeliest).to(x.scalar_type());
  const std::int64_t inner = weights.gate_up.size(0) / experts;
  at::Tensor mixed = at::zeros_like(x);
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    const at::Tensor places = (chosen == expert).nonzero();  // [n, 2]: token, rank
    if (places.size(0) == 0) continue;
    const at::Tensor rows = places.select(1, 0), ranks = places.select(1, 1);
    const at::Tensor gate_up =
        projection(x.index_select(0, rows), weights.gate_up.narrow(0, expert * inner, inner), {});
    const at::Tensor output = projection(activate(gate_up), weights.down.narrow(0, expert * width, width), {});
    mixed.index_add_(0, rows, output * shares.index({rows, ranks}).unsqueeze(1));
  }
  return mixed;
}

}  // namespace lmhead
