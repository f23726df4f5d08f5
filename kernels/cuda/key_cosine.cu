// How near every key's direction is to the mean of all: k_i = K_i / |K_i|, m = mean of k, cosine[i] = k_i . m, and
// |m|^2. Sums run over pieces of the rows in a fixed order; room: [pieces][D] float32, then the mean [D].
#include "kernels/cuda/stored.cuh"

namespace foveal::cuda {

namespace {

constexpr int warps = 4, piece_rows = 128, max_fours = static_cast<int>(max_head_dim / 128);

// A lane's share of a row: numbers 4 * lane + 128 * i, and one over the row's norm in all lanes.
struct Share {
  float4 x[max_fours];
  float inverse;
};
template <RowType Type>
__device__ __forceinline__ Share share_of(const uint8_t* row, int64_t head_dim) {
  Share s;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < max_fours; ++i) {
    const int64_t at = threadIdx.x % 32 * 4 + i * 128;
    s.x[i] = at < head_dim ? stored_four<Type>(row, at, head_dim) : make_float4(0, 0, 0, 0);
    sum += s.x[i].x * s.x[i].x + s.x[i].y * s.x[i].y + s.x[i].z * s.x[i].z + s.x[i].w * s.x[i].w;
  }
  s.inverse = 1.0f / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
  return s;
}

// Grid: pieces. The warps take rows in turn, then their sums are added in order.
template <RowType Type>
__global__ void sum_units(float* sums, const uint8_t* rows, int64_t n, int64_t head_dim) {
  __shared__ float room[warps][max_head_dim];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * piece_rows;
  float4 total[max_fours] = {};
  for (int64_t r = first + warp; r < first + piece_rows && r < n; r += warps) {
    const Share s = share_of<Type>(rows + r * row_bytes(Type, head_dim), head_dim);
#pragma unroll
    for (int i = 0; i < max_fours; ++i)
      total[i] = make_float4(fmaf(s.x[i].x, s.inverse, total[i].x), fmaf(s.x[i].y, s.inverse, total[i].y),
                             fmaf(s.x[i].z, s.inverse, total[i].z), fmaf(s.x[i].w, s.inverse, total[i].w));
  }
#pragma unroll
  for (int i = 0; i < max_fours; ++i) *reinterpret_cast<float4*>(&room[warp][lane * 4 + i * 128]) = total[i];
  __syncthreads();
  for (int64_t d = threadIdx.x; d < head_dim; d += warps * 32) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += room[w][d];
    sums[blockIdx.x * head_dim + d] = sum;
  }
}

// One block. mean[d] = sum of the pieces / n.
__global__ void finish_mean(float* mean, double* mean_norm2, const float* sums, int64_t pieces, int64_t n,
                            int64_t head_dim) {
  __shared__ float room[32];
  float squares = 0;
  for (int64_t d = threadIdx.x; d < head_dim; d += blockDim.x) {
    float sum = 0;
    for (int64_t i = 0; i < pieces; ++i) sum += sums[i * head_dim + d];
    mean[d] = n > 0 ? sum / static_cast<float>(n) : 0.0f;
    squares += mean[d] * mean[d];
  }
  squares = block_sum(squares, room);
  if (threadIdx.x == 0) *mean_norm2 = squares;
}

template <RowType Type>
__global__ void cosine_rows(float* cosine, const float* mean, const uint8_t* rows, int64_t n, int64_t head_dim) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (r >= n) return;
  const Share s = share_of<Type>(rows + r * row_bytes(Type, head_dim), head_dim);
  float dot = 0;
#pragma unroll
  for (int i = 0; i < max_fours; ++i) {
    const float* x = reinterpret_cast<const float*>(&s.x[i]);
    for (int j = 0; j < 4; ++j) {
      const int64_t d = threadIdx.x % 32 * 4 + i * 128 + j;
      if (d < head_dim) dot = fmaf(x[j], mean[d], dot);
    }
  }
  dot = warp_sum(dot);
  if (threadIdx.x % 32 == 0) cosine[r] = dot * s.inverse;
}

template <RowType Type>
void launch(float* cosine, double* mean_norm2, const uint8_t* rows, int64_t n, int64_t head_dim, float* room,
            Stream stream) {
  const int64_t pieces = (n + piece_rows - 1) / piece_rows;
  float* mean = room + pieces * head_dim;
  if (n > 0)
    FOVEAL_LAUNCH((sum_units<Type>), static_cast<unsigned>(pieces), warps * 32, 0, stream, room, rows, n, head_dim);
  FOVEAL_LAUNCH(finish_mean, 1, 128, 0, stream, mean, mean_norm2, room, pieces, n, head_dim);
  if (n > 0)
    FOVEAL_LAUNCH((cosine_rows<Type>), blocks_of(n, warps), warps * 32, 0, stream, cosine, mean, rows, n, head_dim);
}

}  // namespace

size_t key_cosine_room(int64_t len, int64_t head_dim) {
  return static_cast<size_t>(((len + piece_rows - 1) / piece_rows + 1) * head_dim * 4);
}

void key_cosine(float* cosine, double* mean_norm2, KvHead head, RowType type, int64_t head_dim, void* room,
                Stream stream) {
  const auto* rows = static_cast<const uint8_t*>(head.k);
  switch (type) {
#define FOVEAL_CASE(T) \
  case RowType::T:     \
    return launch<RowType::T>(cosine, mean_norm2, rows, head.len, head_dim, static_cast<float*>(room), stream);
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
}

}  // namespace foveal::cuda
