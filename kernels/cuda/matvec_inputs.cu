// Inputs of a matvec in 8 bits: x = scale * code in blocks of 32, scale = max |x| / 127; one warp a block.
#include "kernels/cuda/matvec_inputs.cuh"

namespace foveal::cuda {

namespace {

constexpr unsigned warps = 4;

// Grid: blocks of a row by `warps`, rows.
__global__ void quantise_inputs(MatvecInputs to, ConstRows x) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32, t = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (block * 32 >= to.cols) return;
  const float value = x.data[t * x.stride + block * 32 + lane], largest = warp_max(fabsf(value));
  const bool some = largest > 0x1p-100f;  // below, 127 / largest may be infinite
  const float scale = some ? largest / 127.0f : 0.0f;
  const float code = some ? rintf(value * (127.0f / largest)) : 0.0f;
  float sum = code;  // over the half warp, exact
  for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
  to.codes[t * to.cols + block * 32 + lane] = static_cast<int8_t>(code);
  if (lane == 0) to.scales[t * (to.cols / 32) + block] = scale;
  if (lane % 16 == 0) to.sums[t * (to.cols / 16) + block * 2 + lane / 16] = scale * sum;
}

}  // namespace

size_t matvec_room(int64_t rows, int64_t cols) {
  return static_cast<size_t>(rows * cols + rows * (cols / 32) * 12);
}

// Inputs that aren't whole blocks only meet float weights, which read x itself.
void matvec_inputs(void* room, ConstRows x, Stream stream) {
  if (x.rows == 0 || x.cols % 32 != 0) return;
  const MatvecInputs to = matvec_layout(room, x.rows, x.cols);
  const dim3 grid(blocks_of(x.cols / 32, warps), static_cast<unsigned>(x.rows));
  FOVEAL_LAUNCH(quantise_inputs, grid, warps * 32, 0, stream, to, x);
}

}  // namespace foveal::cuda
