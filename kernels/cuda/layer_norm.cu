// LayerNorm: out = (x - mean) / sqrt(variance + eps) * w (+ b), one block a row; the variance from the differences.
#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

namespace {

__global__ void layer_norm_rows(Rows out, ConstRows x, const float* w, const float* b, float eps) {
  __shared__ float room[32];
  const float* in = x.data + blockIdx.x * x.stride;
  float* to = out.data + blockIdx.x * out.stride;
  const auto n = static_cast<float>(x.cols);
  float sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) sum += in[i];
  const float mean = block_sum(sum, room) / n;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) squares += (in[i] - mean) * (in[i] - mean);
  const float inverse = 1.0f / sqrtf(block_sum(squares, room) / n + eps);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x)
    to[i] = (in[i] - mean) * inverse * w[i] + (b ? b[i] : 0.0f);
}

}  // namespace

void layer_norm(Rows out, ConstRows x, const float* w, const float* b, float eps, Stream stream) {
  if (x.rows == 0) return;
  const unsigned threads = x.cols <= 128 ? 64 : x.cols <= 1024 ? 256 : 1024;
  FOVEAL_LAUNCH(layer_norm_rows, blocks_of(x.rows, 1), threads, 0, stream, out, x, w, b, eps);
}

}  // namespace foveal::cuda
