// RMSNorm (arXiv 1910.07467): out = x / sqrt(mean(x^2) + eps) * w, one block a row.
#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

namespace {

__global__ void rms_norm_rows(Rows out, ConstRows x, const float* w, float eps) {
  __shared__ float room[32];
  const float* in = x.data + blockIdx.x * x.stride;
  float* to = out.data + blockIdx.x * out.stride;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) sum += in[i] * in[i];
  sum = block_sum(sum, room);
  const float inverse = 1.0f / sqrtf(sum / static_cast<float>(x.cols) + eps);
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) to[i] = in[i] * inverse * w[i];
}

}  // namespace

void rms_norm(Rows out, ConstRows x, const float* w, float eps, Stream stream) {
  if (x.rows == 0) return;
  const unsigned threads = x.cols <= 128 ? 64 : x.cols <= 1024 ? 256 : 1024;
  FOVEAL_LAUNCH(rms_norm_rows, blocks_of(x.rows, 1), threads, 0, stream, out, x, w, eps);
}

}  // namespace foveal::cuda
