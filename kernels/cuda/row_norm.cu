// norms[i] = |row i|_2 of stored rows; one warp a row.
#include "kernels/cuda/stored.cuh"

namespace foveal::cuda {

namespace {

constexpr unsigned warps = 4;

template <RowType Type>
__global__ void norm_rows(float* norms, const uint8_t* rows, int64_t n, int64_t head_dim) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (r >= n) return;
  const uint8_t* row = rows + r * row_bytes(Type, head_dim);
  float sum = 0;
  for (int64_t i = threadIdx.x % 32 * 4; i < head_dim; i += 128) {
    const float4 x = stored_four<Type>(row, i, head_dim);
    sum += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) norms[r] = sqrtf(sum);
}

}  // namespace

void row_norm(float* norms, const void* rows, RowType type, int64_t n, int64_t head_dim, Stream stream) {
  if (n == 0) return;
  const auto* bytes = static_cast<const uint8_t*>(rows);
  switch (type) {
#define FOVEAL_CASE(T)                                                                                         \
  case RowType::T:                                                                                             \
    return FOVEAL_LAUNCH((norm_rows<RowType::T>), blocks_of(n, warps), warps * 32, 0, stream, norms, bytes, n, \
                         head_dim);
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
}

}  // namespace foveal::cuda
