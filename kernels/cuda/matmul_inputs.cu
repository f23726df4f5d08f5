// Inputs of a matmul in fp16: every row times the power of two that brings its largest number to [1024, 2048), so that
// none overflows and the small ones keep their bits; one block a row.
#include "kernels/cuda/matmul_inputs.cuh"

namespace foveal::cuda {

namespace {

__global__ void halve_rows(MatmulInputs to, ConstRows x) {
  __shared__ float room[32];
  const float* in = x.data + blockIdx.x * x.stride;
  float largest = 0;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) largest = fmaxf(largest, fabsf(in[i]));
  largest = block_max(largest, room);
  const int exponent = largest > 0x1p-100f && largest < 0x1p120f ? 10 - ilogbf(largest) : 0;
  const float scale = ldexpf(1.0f, exponent);
  half* row = to.values + blockIdx.x * to.padded;
  for (int64_t i = threadIdx.x; i < to.padded; i += blockDim.x)
    row[i] = __float2half_rn(i < x.cols ? in[i] * scale : 0.0f);
  if (threadIdx.x == 0) to.unscale[blockIdx.x] = ldexpf(1.0f, -exponent);
}

}  // namespace

size_t matmul_room(int64_t rows, int64_t cols) {
  const int64_t padded = (cols + matmul_step - 1) / matmul_step * matmul_step;
  return static_cast<size_t>(rows * (padded * 2 + 4));
}

void matmul_inputs(void* room, ConstRows x, Stream stream) {
  if (x.rows == 0) return;
  const MatmulInputs to = matmul_layout(room, x.rows, x.cols);
  FOVEAL_LAUNCH(halve_rows, static_cast<unsigned>(x.rows), x.cols <= 256 ? 64 : 256, 0, stream, to, x);
}

}  // namespace foveal::cuda
