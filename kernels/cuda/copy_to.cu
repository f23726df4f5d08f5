// Floats to an address that is itself in device memory: a copy whose target moves while its launch stays the same.
#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

namespace {

constexpr int threads = 256;

__global__ void copy_floats(float* const* to, const float* from, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) (*to)[i] = from[i];
}

}  // namespace

void copy_to(float* const* to, const float* from, int64_t n, Stream stream) {
  if (n == 0) return;
  FOVEAL_LAUNCH(copy_floats, blocks_of(n, threads), threads, 0, stream, to, from, n);
}

}  // namespace foveal::cuda
