// The fused row kernel: a block of threads for every row of logits. No GPU has run it yet; tests/kernels/cuda_rows_test.cc
// runs what it is made of on the CPU, thread by thread.
#include "lmhead/kernels/cuda/logit_row_block.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {
namespace {

constexpr int kThreads = 512, kWarp = 32;

template <class T>
__device__ T of_lane_below(T value, int distance) {
  return __shfl_down_sync(~0u, value, distance);
}
template <bool kFigures>
__device__ RowSums sums_below(const RowSums& sums, int distance) {
  RowSums below{of_lane_below(sums.max, distance), of_lane_below(sums.sum, distance),
                of_lane_below(sums.weighted, distance), of_lane_below(sums.weight, distance), 0, 0};
  if constexpr (kFigures) {
    below.moment = of_lane_below(sums.moment, distance);
    below.best = of_lane_below(static_cast<long long>(sums.best), distance);
  }
  return below;
}

/// Of a warp, in its first lane.
template <bool kFigures>
__device__ RowSums joined_in_warp(RowSums sums) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    sums = joined<kFigures>(sums, sums_below<kFigures>(sums, distance));
  return sums;
}
__device__ float added_in_warp(float number) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) number += of_lane_below(number, distance);
  return number;
}

/// Of the block, in every thread; what any thread read before, it read before any thread returns.
template <bool kFigures>
__device__ RowSums joined_in_block(RowSums sums) {
  __shared__ RowSums of_warps[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  sums = joined_in_warp<kFigures>(sums);
  if (lane == 0) of_warps[warp] = sums;
  __syncthreads();
  if (warp == 0) {
    sums = joined_in_warp<kFigures>(lane < kThreads / kWarp ? of_warps[lane] : no_sums());
    if (lane == 0) of_warps[0] = sums;
  }
  __syncthreads();
  return of_warps[0];
}
/// Of the block, in its first thread.
__device__ float added_in_block(float number) {
  __shared__ float of_warps[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  number = added_in_warp(number);
  if (lane == 0) of_warps[warp] = number;
  __syncthreads();
  return warp == 0 ? added_in_warp(lane < kThreads / kWarp ? of_warps[lane] : 0) : 0;
}

template <bool kFigures, class T>
__global__ void __launch_bounds__(kThreads, 2) logit_rows(const LogitRowsTask task) {
  const LogitRow<T> row(task, blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const float logit_of_target = target_logit(row);
  const RowSums sums = joined_in_block<kFigures>(sums_of_thread<kFigures>(row, thread, kThreads));
  const RowGradient gradient = finish_row<kFigures>(row, sums, logit_of_target, thread == 0);
  if (!task.upstream) return;
  float squares = write_gradient<kFigures>(row, gradient, thread, kThreads);
  if constexpr (kFigures) {
    squares = added_in_block(squares);
    if (thread == 0) write_squares(row, gradient, squares);
  }
}

template <class T>
void launch(const LogitRowsTask& task, cudaStream_t queue) {
  const dim3 blocks(static_cast<unsigned>(task.rows));
  if (task.figures) logit_rows<true, T><<<blocks, kThreads, 0, queue>>>(task);
  else logit_rows<false, T><<<blocks, kThreads, 0, queue>>>(task);
}

}  // namespace
}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL

int lmhead_cuda_version() { return lmhead::kLogitRowsVersion; }

int lmhead_cuda_logit_rows(const lmhead::LogitRowsTask& task, void* stream) {
  using namespace lmhead::vector::LMHEAD_VECTOR_LEVEL;
  if (task.rows == 0) return 0;
  auto* queue = static_cast<cudaStream_t>(stream);
  switch (task.storage) {
    case lmhead::LogitStorage::kFloat:
      launch<float>(task, queue);
      break;
    case lmhead::LogitStorage::kBfloat16:
      launch<lmhead::vector::Bfloat16>(task, queue);
      break;
    case lmhead::LogitStorage::kFloat16:
      launch<Float16>(task, queue);
      break;
  }
  return cudaGetLastError();
}

const char* lmhead_cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
