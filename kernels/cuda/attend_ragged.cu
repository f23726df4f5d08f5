// Attention of one decoded token, split over the rows of each head: blocks of rows leave a maximum, a sum and a
// weighted sum, which a second kernel merges in order. Lengths come from device memory: the launch is the same for all
// of them.
#include "kernels/cuda/stored.cuh"

namespace foveal::cuda {

namespace {

constexpr int threads = 128, tile = 64;  // rows of one step
constexpr int max_queries = 8;           // of one pass over the rows

struct Decode {
  Rows out;
  ConstRows q;
  const KvHead* heads;
  int64_t n_kv, group, head_dim, splits;
  float scale, softcap;
  float* parts;  // [n_kv * group][splits][head_dim + 2]: maximum, sum, weighted sum
};

// Rows of a block: whole tiles, as few as `splits` blocks need.
__device__ __forceinline__ int64_t rows_of_split(int64_t len, int64_t splits) {
  const int64_t tiles = (len + tile - 1) / tile;
  return (tiles + splits - 1) / splits * tile;
}

// scores[g][r] of the tile's rows r < n: eight lanes a row, each four numbers in turn.
template <RowType Type, int G>
__device__ __forceinline__ void score_tile(const Decode& p, const float* q, int n_q, const uint8_t* k, int n,
                                           float (*scores)[tile]) {
  const int lane = static_cast<int>(threadIdx.x) % 8, d4 = static_cast<int>(p.head_dim + 3) / 4;
  const int64_t bytes = row_bytes(Type, p.head_dim);
  for (int r = static_cast<int>(threadIdx.x) / 8; r < tile; r += threads / 8) {
    float sums[G] = {};
    for (int i = lane; i < d4 && r < n; i += 8) {
      const float4 x = stored_four<Type>(k + r * bytes, 4 * i, p.head_dim);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        if (g >= n_q) break;
        const float4 y = *reinterpret_cast<const float4*>(q + (g * d4 + i) * 4);
        sums[g] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
      }
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      for (int step = 4; step > 0; step /= 2) sums[g] += __shfl_xor_sync(all_lanes, sums[g], step);
      if (lane == 0) scores[g][r] = r < n ? capped(sums[g] * p.scale, p.softcap) : lowest;
    }
  }
}

// One warp: scores of n rows to exp(score - maximum), 0 past n. Returns by what earlier sums are to be multiplied.
__device__ __forceinline__ float soften(float* scores, int n, float& most, float& sum) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float s0 = scores[lane], s1 = scores[lane + 32];
  const float now = fmaxf(most, warp_max(fmaxf(s0, s1))), correction = expf(most - now);
  const float p0 = lane < n ? expf(s0 - now) : 0.0f, p1 = lane + 32 < n ? expf(s1 - now) : 0.0f;
  scores[lane] = p0;
  scores[lane + 32] = p1;
  sum = sum * correction + warp_sum(p0 + p1);
  most = now;
  return correction;
}

// Grid: splits; KV heads; passes of G query heads. Threads over V: columns of four, times lanes over the rows.
template <RowType Type, int G>
__global__ void __launch_bounds__(threads) attend_split(Decode p) {
  __shared__ float scores[G][tile];
  __shared__ float corrections[G];
  __shared__ float4 room[threads];
  FOVEAL_SHARED(shared);
  auto* q = reinterpret_cast<float*>(shared);  // [G][d4 * 4]
  const int tid = static_cast<int>(threadIdx.x), d4 = static_cast<int>(p.head_dim + 3) / 4;
  const int first_q = static_cast<int>(blockIdx.z) * G, left_q = static_cast<int>(p.group) - first_q;
  const int n_q = left_q < G ? left_q : G;
  const KvHead head = p.heads[blockIdx.y];
  const int64_t share = rows_of_split(head.len, p.splits), first = blockIdx.x * share;
  const int64_t end = first + share < head.len ? first + share : head.len;
  if (first >= end) return;
  const int64_t query = blockIdx.y * p.group + first_q, bytes = row_bytes(Type, p.head_dim);
  for (int i = tid; i < n_q * d4 * 4; i += threads) {
    const int d = i % (d4 * 4);
    q[i] = d < p.head_dim ? p.q.data[(query + i / (d4 * 4)) * p.head_dim + d] : 0.0f;
  }
  const int column = tid % d4, row_lane = tid / d4, row_lanes = threads / d4, warp = tid / 32;
  float most[(G + 3) / 4], sum[(G + 3) / 4];
  float4 acc[G];
#pragma unroll
  for (int i = 0; i < (G + 3) / 4; ++i) most[i] = lowest, sum[i] = 0;
#pragma unroll
  for (int g = 0; g < G; ++g) acc[g] = make_float4(0, 0, 0, 0);
  __syncthreads();
  for (int64_t at = first; at < end; at += tile) {
    const int n = static_cast<int>(end - at < tile ? end - at : tile);
    score_tile<Type, G>(p, q, n_q, static_cast<const uint8_t*>(head.k) + at * bytes, n, scores);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < (G + 3) / 4; ++i) {
      const int g = i * 4 + warp;
      if (g >= G) break;
      const float correction = soften(scores[g], n, most[i], sum[i]);
      if (tid % 32 == 0) corrections[g] = correction;
    }
    __syncthreads();
    const uint8_t* v = static_cast<const uint8_t*>(head.v) + at * bytes;
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const float c = corrections[g];
      acc[g] = make_float4(acc[g].x * c, acc[g].y * c, acc[g].z * c, acc[g].w * c);
    }
    for (int r = row_lane; r < n && row_lane < row_lanes; r += row_lanes) {
      const float4 x = stored_four<Type>(v + r * bytes, 4 * column, p.head_dim);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const float w = scores[g][r];
        acc[g] =
            make_float4(fmaf(w, x.x, acc[g].x), fmaf(w, x.y, acc[g].y), fmaf(w, x.z, acc[g].z), fmaf(w, x.w, acc[g].w));
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int g = 0; g < G; ++g) {
    if (g >= n_q) break;
    float* part = p.parts + ((query + g) * p.splits + blockIdx.x) * (p.head_dim + 2);
    room[tid] = acc[g];
    __syncthreads();
    for (int d = tid; d < p.head_dim; d += threads) {
      float total = 0;
      for (int i = 0; i < row_lanes; ++i) total += reinterpret_cast<const float*>(&room[i * d4])[d];
      part[2 + d] = total;
    }
    if (warp == g % 4 && tid % 32 == 0) part[0] = most[g / 4], part[1] = sum[g / 4];
    __syncthreads();
  }
}

// Grid: query heads.
__global__ void merge_splits(Decode p) {
  const int64_t query = blockIdx.x, len = p.heads[query / p.group].len;
  const int64_t share = rows_of_split(len, p.splits), n = len > 0 ? (len + share - 1) / share : 0;
  const int64_t stride = p.head_dim + 2;
  const float* parts = p.parts + query * p.splits * stride;
  float most = lowest;
  for (int64_t i = 0; i < n; ++i) most = fmaxf(most, parts[i * stride]);
  for (int64_t d = threadIdx.x; d < p.head_dim; d += blockDim.x) {
    float sum = 0, total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float weight = expf(parts[i * stride] - most);
      sum += weight * parts[i * stride + 1];
      total += weight * parts[i * stride + 2 + d];
    }
    p.out.data[query * p.head_dim + d] = sum > 0 ? total / sum : 0.0f;
  }
}

template <RowType Type, int G>
void launch_split(const Decode& p, Stream stream) {
  const dim3 grid(static_cast<unsigned>(p.splits), static_cast<unsigned>(p.n_kv), blocks_of(p.group, G));
  const auto shared = static_cast<size_t>(G * ((p.head_dim + 3) / 4) * 16);
  FOVEAL_LAUNCH((attend_split<Type, G>), grid, threads, shared, stream, p);
}

template <RowType Type>
void launch(const Decode& p, Stream stream) {
  if (p.group == 1) return launch_split<Type, 1>(p, stream);
  if (p.group <= 4) return launch_split<Type, 4>(p, stream);
  launch_split<Type, max_queries>(p, stream);
}

}  // namespace

size_t ragged_room(int64_t n_head, int64_t head_dim, int64_t splits) {
  return static_cast<size_t>(n_head * splits * (head_dim + 2) * 4);
}

void attend_ragged(Rows out, ConstRows q, const KvHead* heads, int64_t n_kv, RowType type, int64_t head_dim,
                   float scale, float softcap, int64_t splits, void* room, Stream stream) {
  const int64_t n_head = q.cols / head_dim;
  const Decode p{out, q, heads, n_kv, n_head / n_kv, head_dim, splits, scale, softcap, static_cast<float*>(room)};
  switch (type) {
#define FOVEAL_CASE(T)             \
  case RowType::T:                 \
    launch<RowType::T>(p, stream); \
    break;
    FOVEAL_STORED(FOVEAL_CASE)
#undef FOVEAL_CASE
  }
  FOVEAL_LAUNCH(merge_splits, static_cast<unsigned>(n_head), head_dim <= 64 ? 64 : 128, 0, stream, p);
}

}  // namespace foveal::cuda
