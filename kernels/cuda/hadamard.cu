// Normalised Walsh-Hadamard transform of runs as long as the largest power of two in head_dim: one block a run.
#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

namespace {

// Grid: runs of a row, rows. Block: length / 2 threads, a butterfly each; at least one warp.
__global__ void hadamard_runs(Rows out, ConstRows x, int64_t length, float norm) {
  FOVEAL_SHARED(shared);
  auto* run = reinterpret_cast<float*>(shared);  // [length]
  const int64_t i = threadIdx.x;
  for (int64_t row = blockIdx.y; row < x.rows; row += gridDim.y) {
    const float* from = x.data + row * x.stride + blockIdx.x * length;
    float* to = out.data + row * out.stride + blockIdx.x * length;
    for (int64_t j = i; j < length; j += blockDim.x) run[j] = from[j];
    for (int64_t half = 1; half < length; half *= 2) {
      __syncthreads();
      if (i < length / 2) {
        const int64_t a = i / half * 2 * half + i % half, b = a + half;
        const float first = run[a], second = run[b];
        run[a] = first + second;
        run[b] = first - second;
      }
    }
    __syncthreads();
    for (int64_t j = i; j < length; j += blockDim.x) to[j] = run[j] * norm;
    __syncthreads();
  }
}

}  // namespace

void hadamard(Rows out, ConstRows x, int64_t head_dim, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  const int64_t length = head_dim & -head_dim;
  const dim3 grid(blocks_of(x.cols, length), static_cast<unsigned>(x.rows < 65535 ? x.rows : 65535));
  const auto threads = static_cast<unsigned>(length < 64 ? 32 : length / 2);
  const float norm = 1.0f / sqrtf(static_cast<float>(length));
  FOVEAL_LAUNCH(hadamard_runs, grid, threads, static_cast<size_t>(length) * 4, stream, out, x, length, norm);
}

}  // namespace foveal::cuda
