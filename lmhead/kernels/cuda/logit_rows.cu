// The fused row kernel: a block of threads for every row of logits. No GPU has run it yet; tests/kernels/cuda_rows_test.cc
// runs what it is made of on the CPU, thread by thread.
#include "lmhead/kernels/cuda/logit_row_block.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {
namespace {

constexpr int kThreads = 512, kWarp = 32;

__device__ RowSums of_lane_below(const RowSums& sums, int distance) {
  return {__shfl_down_sync(~0u, sums.max, distance), __shfl_down_sync(~0u, sums.sum, distance),
          __shfl_down_sync(~0u, sums.weighted, distance), __shfl_down_sync(~0u, sums.weight, distance)};
}

/// Of a warp, in its first lane.
__device__ RowSums joined_in_warp(RowSums sums) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) sums = joined(sums, of_lane_below(sums, distance));
  return sums;
}

/// Of the block, in every thread; what any thread read before, it read before any thread returns.
__device__ RowSums joined_in_block(RowSums sums) {
  __shared__ RowSums of_warps[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  sums = joined_in_warp(sums);
  if (lane == 0) of_warps[warp] = sums;
  __syncthreads();
  if (warp == 0) {
    sums = joined_in_warp(lane < kThreads / kWarp ? of_warps[lane] : no_sums());
    if (lane == 0) of_warps[0] = sums;
  }
  __syncthreads();
  return of_warps[0];
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) logit_rows(const LogitRowsTask task) {
  const LogitRow<T> row(task, blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const float logit_of_target = target_logit(row);
  const RowSums sums = joined_in_block(sums_of_thread(row, thread, kThreads));
  const RowGradient gradient = finish_row(row, sums, logit_of_target, thread == 0);
  if (task.upstream) write_gradient(row, gradient, thread, kThreads);
}

}  // namespace
}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL

int lmhead_cuda_version() { return lmhead::kLogitRowsVersion; }

int lmhead_cuda_logit_rows(const lmhead::LogitRowsTask& task, void* stream) {
  using namespace lmhead::vector::LMHEAD_VECTOR_LEVEL;
  if (task.rows == 0) return 0;
  const dim3 blocks(static_cast<unsigned>(task.rows));
  auto* queue = static_cast<cudaStream_t>(stream);
  switch (task.storage) {
    case lmhead::LogitStorage::kFloat:
      logit_rows<float><<<blocks, kThreads, 0, queue>>>(task);
      break;
    case lmhead::LogitStorage::kBfloat16:
      logit_rows<lmhead::vector::Bfloat16><<<blocks, kThreads, 0, queue>>>(task);
      break;
    case lmhead::LogitStorage::kFloat16:
      logit_rows<Float16><<<blocks, kThreads, 0, queue>>>(task);
      break;
  }
  return cudaGetLastError();
}

const char* lmhead_cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
