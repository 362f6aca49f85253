#include "lmhead/heads/cluster_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/min.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::int64_t kRowsAtOnce = 8192;
constexpr int kMostIterations = 20;

/// A row drawn with probability proportional to `mass` [V]; any where there is none.
std::int64_t draw_row(const at::Tensor& mass, RandomStream& stream) {
  const auto* values = mass.const_data_ptr<float>();
  double left = stream.uniform() * mass.sum(at::kDouble).item<double>();
  for (std::int64_t row = 0; row < mass.size(0); ++row)
    if ((left -= double(values[row])) < 0) return row;
  return std::int64_t(stream.below(std::uint64_t(mass.size(0))));
}

at::Tensor draw_seeds(const at::Tensor& rows, const at::Tensor& squares, std::int64_t clusters, RandomStream& stream) {
  at::Tensor centers = at::empty({clusters, rows.size(1)}, rows.options());
  at::Tensor distances = at::full({rows.size(0)}, 1.0F, rows.options());
  for (std::int64_t cluster = 0; cluster < clusters; ++cluster) {
    const at::Tensor center = rows[draw_row(distances, stream)];
    centers[cluster].copy_(center);
    const at::Tensor from_it = (squares - 2 * at::mv(rows, center) + center.square().sum()).clamp_min(0);
    distances = cluster == 0 ? from_it : at::minimum(distances, from_it);
  }
  return centers;
}

/// The nearest center of each row [V], and its squared distance.
std::pair<at::Tensor, at::Tensor> nearest(const at::Tensor& rows, const at::Tensor& squares,
                                          const at::Tensor& centers) {
  std::vector<at::Tensor> distances, clusters;
  const at::Tensor center_squares = centers.square().sum(1);
  for (std::int64_t first = 0; first < rows.size(0); first += kRowsAtOnce) {
    const at::Tensor block = rows.narrow(0, first, std::min(kRowsAtOnce, rows.size(0) - first));
    const auto [least, which] = at::min(at::addmm(center_squares, block, centers.t(), 1, -2), 1);
    distances.push_back(least);
    clusters.push_back(which);
  }
  return {at::cat(clusters), (at::cat(distances) + squares).clamp_min(0)};
}

/// Gives each cluster that has no row the one that lies farthest from its own center, from a cluster that has others.
void fill_empty(at::Tensor& assignment, at::Tensor& distances, std::int64_t clusters) {
  at::Tensor counts = at::bincount(assignment, {}, clusters);
  auto* count = counts.mutable_data_ptr<std::int64_t>();
  auto* cluster_of = assignment.mutable_data_ptr<std::int64_t>();
  auto* distance = distances.mutable_data_ptr<float>();
  for (std::int64_t cluster = 0; cluster < clusters; ++cluster) {
    if (count[cluster] > 0) continue;
    std::int64_t farthest = -1;
    for (std::int64_t row = 0; row < assignment.size(0); ++row)
      if (count[cluster_of[row]] > 1 && (farthest < 0 || distance[row] > distance[farthest])) farthest = row;
    --count[cluster_of[farthest]];
    ++count[cluster];
    cluster_of[farthest] = cluster;
    distance[farthest] = 0;
  }
}

}  // namespace

std::vector<std::int64_t> cluster_rows(const at::Tensor& matrix, std::int64_t clusters, RandomStream& stream) {
  at::NoGradGuard no_grad;
  require(matrix.dim() == 2 && clusters >= 1 && clusters <= matrix.size(0), "head", "clusters must be 1 to ",
          matrix.size(0), ", got ", clusters);
  const at::Tensor rows = matrix.to(at::kFloat).contiguous(), squares = rows.square().sum(1);
  at::Tensor centers = draw_seeds(rows, squares, clusters, stream), assignment;
  for (int iteration = 0; iteration < kMostIterations; ++iteration) {
    auto [found, distances] = nearest(rows, squares, centers);
    fill_empty(found, distances, clusters);
    const bool is_settled = assignment.defined() && assignment.equal(found);
    assignment = found;
    if (is_settled) break;
    const at::Tensor counts = at::bincount(assignment, {}, clusters).to(at::kFloat);
    centers = at::zeros_like(centers).index_add_(0, assignment, rows).div_(counts.unsqueeze(1));
  }
  return {assignment.const_data_ptr<std::int64_t>(), assignment.const_data_ptr<std::int64_t>() + matrix.size(0)};
}

}  // namespace lmhead
