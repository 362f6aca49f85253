#include "lmhead/kernels/made_rows.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <utility>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

std::int64_t rows_per_part(std::int64_t width) { return std::max<std::int64_t>(1, tile_sizes::kMadeElements / width); }

}  // namespace

MadeRows::Tensors MadeRows::inputs() const {
  Tensors all = by_token;
  all.insert(all.end(), shared.begin(), shared.end());
  return all;
}

MadeRowsPass::MadeRowsPass(const MadeRows& made, std::vector<bool> wanted, at::Tensor further)
    : made_(made),
      wanted_(std::move(wanted)),
      further_(std::move(further)),
      keys_(c10::impl::tls_local_dispatch_key_set()),
      by_token_(made.by_token.size()),
      sums_(static_cast<std::size_t>(at::get_num_threads()), MadeRows::Tensors(made.shared.size())),
      kept_(sums_.size()) {}

void MadeRowsPass::make_rows_of(LogitPass& pass) {
  pass.make_features = [this, part = rows_per_part(pass.map.weight.size(1))](std::int64_t slot, std::int64_t first,
                                                                             std::int64_t count) {
    return make_features(first, count, part, kept_[static_cast<std::size_t>(slot)]);
  };
}

void MadeRowsPass::take_gradients_of(LogitPass& pass, const at::Tensor& by_further, double scale) {
  takes_gradients_ = true;
  for (std::size_t index = 0; index < by_token_.size(); ++index)
    if (wanted_[index]) by_token_[index] = at::zeros_like(made_.by_token[index]);
  const std::int64_t part = rows_per_part(pass.map.weight.size(1));
  pass.take_gradients = [=, this](std::int64_t slot, std::int64_t begin, std::int64_t rows,
                                  const MadeRows::Tensors& by_features) {
    c10::impl::ForceDispatchKeyGuard keys(keys_);
    const auto place = static_cast<std::size_t>(slot);
    const Made kept = std::exchange(kept_[place], {});
    for (std::int64_t at = 0; at < rows; at += part) {
      const std::int64_t count = std::min(part, rows - at), first = begin + at;
      MadeRows::Tensors of_part;
      for (const at::Tensor& gradient : by_features) of_part.push_back(gradient.narrow(0, at, count));
      at::AutoGradMode enabled(true);
      take_back(count == rows ? kept : make(first, count), first, count, of_part,
                by_further.narrow(0, first, count) * scale, sums_[place]);
    }
  };
}

MadeRowsPass::Made MadeRowsPass::make(std::int64_t first, std::int64_t count) const {
  MadeRows::Tensors leaves = made_.inputs();
  const std::size_t tokens = made_.by_token.size();
  for (std::size_t index = 0; index < leaves.size(); ++index) {
    const at::Tensor all = leaves[index].detach();
    leaves[index] = index < tokens ? all.narrow(0, first, count) : all;
    if (at::GradMode::is_enabled()) leaves[index].requires_grad_(wanted_[index]);
  }
  const auto middle = leaves.begin() + static_cast<std::ptrdiff_t>(tokens);
  MadeRows::Block block = made_.make(first, count, {leaves.begin(), middle}, {middle, leaves.end()});
  return {std::move(leaves), std::move(block)};
}

/// `kept` becomes the block where it is one part that has gradients to come.
MadeRows::Tensors MadeRowsPass::make_features(std::int64_t first, std::int64_t count, std::int64_t part,
                                              Made& kept) const {
  // The pass runs below autograd; rows are made above it.
  c10::impl::ForceDispatchKeyGuard keys(keys_);
  at::AutoGradMode mode(takes_gradients_ && part >= count);
  MadeRows::Tensors features;
  for (std::int64_t at = 0; at < count; at += part) {
    const std::int64_t rows = std::min(part, count - at);
    const Made made = make(first + at, rows);
    further_.narrow(0, first + at, rows).copy_(made.block.further.detach());
    for (std::size_t index = 0; index < made.block.features.size(); ++index) {
      const at::Tensor feature = made.block.features[index].detach();
      if (at == 0)
        features.push_back(rows == count ? feature.contiguous()
                                         : at::empty({count, feature.size(1)}, feature.options()));
      if (rows < count) features[index].narrow(0, at, rows).copy_(feature);
    }
    if (at::GradMode::is_enabled()) kept = made;
  }
  return features;
}

void MadeRowsPass::take_back(const Made& made, std::int64_t first, std::int64_t count,
                             const MadeRows::Tensors& by_features, const at::Tensor& by_further,
                             MadeRows::Tensors& sums) {
  MadeRows::Tensors outputs, upstreams, asked;
  const auto add = [&](const at::Tensor& output, const at::Tensor& upstream) {
    if (!output.requires_grad()) return;
    outputs.push_back(output), upstreams.push_back(upstream.to(output.scalar_type()));
  };
  for (std::size_t index = 0; index < by_features.size(); ++index) add(made.block.features[index], by_features[index]);
  add(made.block.further, by_further);
  for (const at::Tensor& leaf : made.leaves)
    if (leaf.requires_grad()) asked.push_back(leaf);
  if (outputs.empty() || asked.empty()) return;
  at::AutoGradMode disabled(false);
  const MadeRows::Tensors found = torch::autograd::grad(outputs, asked, upstreams, /*retain_graph=*/false,
                                                        /*create_graph=*/false, /*allow_unused=*/true);
  const std::size_t tokens = made_.by_token.size();
  std::size_t next = 0;
  for (std::size_t index = 0; index < wanted_.size(); ++index) {
    const at::Tensor gradient = wanted_[index] ? found[next++] : at::Tensor();
    if (!gradient.defined()) continue;
    if (index < tokens) {
      by_token_[index].narrow(0, first, count).copy_(gradient);
      continue;
    }
    at::Tensor& sum = sums[index - tokens];
    if (sum.defined()) sum.add_(gradient);
    else sum = gradient.to(loss_type(gradient.scalar_type()), /*non_blocking=*/false, /*copy=*/true);
  }
}

std::vector<at::Tensor> MadeRowsPass::gradients() {
  MadeRows::Tensors found = by_token_;
  for (std::size_t index = 0; index < made_.shared.size(); ++index) {
    at::Tensor sum;
    for (const MadeRows::Tensors& of_slot : sums_) {
      const at::Tensor& part = of_slot[index];
      if (!part.defined()) continue;
      if (sum.defined()) sum.add_(part);
      else sum = part;
    }
    const at::Tensor& of = made_.shared[index];
    if (!wanted_[by_token_.size() + index]) sum = at::Tensor();
    else sum = sum.defined() ? sum.to(of.scalar_type()) : at::zeros_like(of);
    found.push_back(sum);
  }
  return found;
}

}  // namespace lmhead
