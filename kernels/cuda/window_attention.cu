// The attention of a window's queries over all rows of one head, as probabilities: scores in tiles, then a softmax a
// row.
#include "kernels/cuda/stored.cuh"

namespace foveal::cuda {

namespace {

constexpr int threads = 128, queries = 32, keys = 32, step = 32;  // of a tile; of the head dimension at a time

// Grid: tiles of keys; tiles of queries. scores [n_q, N]; 8 x 16 threads with 4 queries and 2 keys each.
template <RowType Type>
__global__ void __launch_bounds__(threads) score_tiles(Rows scores, ConstRows q, const uint8_t* rows) {
  __shared__ float qs[step][queries + 1], ks[step][keys + 1];
  const int tid = static_cast<int>(threadIdx.x), ty = tid / 16, tx = tid % 16;
  const int64_t key0 = static_cast<int64_t>(blockIdx.x) * keys, query0 = static_cast<int64_t>(blockIdx.y) * queries;
  const int64_t head_dim = q.cols;
  float sums[4][2] = {};
  for (int64_t d0 = 0; d0 < head_dim; d0 += step) {
    __syncthreads();
    for (int i = tid; i < queries * step; i += threads) {
      const int r = i / step, d = i % step;
      const bool some = d0 + d < head_dim;
      qs[d][r] = some && query0 + r < q.rows ? q.data[(query0 + r) * q.stride + d0 + d] : 0.0f;
      ks[d][r] = some && key0 + r < scores.cols ? stored_at<Type>(rows + (key0 + r) * row_bytes(Type, head_dim), d0 + d)
                                                : 0.0f;
    }
    __syncthreads();
    for (int d = 0; d < step; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) sums[i][j] = fmaf(qs[d][ty * 4 + i], ks[d][tx + 16 * j], sums[i][j]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int64_t query = query0 + ty * 4 + i, key = key0 + tx + 16 * j;
      if (query < scores.rows && key < scores.cols) scores.data[query * scores.stride + key] = sums[i][j];
    }
}

// Grid: rows. Row i sees its first visible[i % n_visible] columns; the others become 0.
__global__ void soften_rows(Rows probs, const int64_t* visible, int64_t n_visible, float scale, float softcap) {
  __shared__ float room[32];
  float* row = probs.data + blockIdx.x * probs.stride;
  const int64_t limit = visible[blockIdx.x % n_visible], seen = limit < probs.cols ? limit : probs.cols;
  float most = lowest, sum = 0;
  for (int64_t i = threadIdx.x; i < seen; i += blockDim.x) {
    row[i] = capped(row[i] * scale, softcap);
    most = fmaxf(most, row[i]);
  }
  most = block_max(most, room);
  for (int64_t i = threadIdx.x; i < seen; i += blockDim.x) {
    row[i] = expf(row[i] - most);
    sum += row[i];
  }
  const float inverse = 1.0f / block_sum(sum, room);
  for (int64_t i = threadIdx.x; i < probs.cols; i += blockDim.x) row[i] = i < seen ? row[i] * inverse : 0.0f;
}

}  // namespace

void window_attention(Rows probs, ConstRows q, KvHead head, RowType type, const int64_t* visible, int64_t n_visible,
                      float scale, float softcap, Stream stream) {
  if (probs.rows == 0 || probs.cols == 0) return;
  const dim3 grid(blocks_of(probs.cols, keys), blocks_of(probs.rows, queries));
  const auto* rows = static_cast<const uint8_t*>(head.k);
  switch (type) {
#define FOVEAL_CASE(T)                                                                  \
  case RowType::T:                                                                      \
    FOVEAL_LAUNCH((score_tiles<RowType::T>), grid, threads, 0, stream, probs, q, rows); \
    break;
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
  const unsigned wide = probs.cols <= 1024 ? 128 : 512;
  FOVEAL_LAUNCH(soften_rows, static_cast<unsigned>(probs.rows), wide, 0, stream, probs, visible, n_visible, scale,
                softcap);
}

}  // namespace foveal::cuda
