// Attention of many queries on tensor cores (FlashAttention-2, arXiv 2307.08691): a warp holds 16 queries and their
// sums in registers, a block shares tiles of keys. Queries and keys are each the sum of two fp16 numbers, so that
// scores are almost float32's; weights and values are fp16, sums float32.
#include "kernels/cuda/flash.cuh"
#include "kernels/cuda/mma.cuh"

namespace foveal::cuda {

namespace {

constexpr int warps = 4, threads = warps * 32, keys = 32;  // keys of a tile
constexpr int queries = 16 * warps;
constexpr int v_stride = keys / 2 + 4;  // words from one column of V to the next

// x = high + low, as pairs of halves; beyond fp16's range the largest it has.
struct Split {
  uint32_t high, low;
};
__device__ __forceinline__ float in_range(float x) {
  return fminf(fmaxf(x, -65504.0f), 65504.0f);
}
__device__ __forceinline__ Split split(float a, float b) {
  a = in_range(a);
  b = in_range(b);
  const uint32_t high = pack_halves(a, b);
  return {high, pack_halves(a - half_bits_to_float(static_cast<uint16_t>(high)),
                            b - half_bits_to_float(static_cast<uint16_t>(high >> 16)))};
}

// Element d of a row, 0 where there is none.
__device__ __forceinline__ float at_or_zero(const float* row, int64_t d, int64_t n, bool some) {
  return some && d < n ? row[d] : 0.0f;
}

// Chunks: head dimension in units of 16, rounded up.
template <int Chunks>
struct Room {
  static constexpr int k_stride = Chunks * 8 + 4;  // words
  uint32_t k_high[keys * k_stride], k_low[keys * k_stride];
  uint32_t v[Chunks * 16 * v_stride];  // column by column: the values of two keys a word
  int least[warps], last[warps];
};

template <int Chunks>
__device__ __forceinline__ void load_tile(Room<Chunks>& room, const FlashHead& head, int64_t tile, int64_t head_dim) {
  for (int i = static_cast<int>(threadIdx.x); i < keys * Chunks * 8; i += threads) {
    const int key = i / (Chunks * 8), d = i % (Chunks * 8) * 2;
    const bool some = tile + key < head.len;
    const float* row = head.k + (tile + key) * head.k_stride;
    const Split s = split(at_or_zero(row, d, head_dim, some), at_or_zero(row, d + 1, head_dim, some));
    room.k_high[key * Room<Chunks>::k_stride + d / 2] = s.high;
    room.k_low[key * Room<Chunks>::k_stride + d / 2] = s.low;
  }
  for (int i = static_cast<int>(threadIdx.x); i < keys * Chunks * 8; i += threads) {
    const int d = i % (Chunks * 16), key = i / (Chunks * 16) * 2;
    const float* row = head.v + (tile + key) * head.v_stride;
    const float first = at_or_zero(row, d, head_dim, tile + key < head.len);
    const float second = at_or_zero(row + head.v_stride, d, head_dim, tile + key + 1 < head.len);
    room.v[d * v_stride + key / 2] = pack_halves(in_range(first), in_range(second));
  }
}

// One query of a warp's: who it is, what it sees, its running maximum and sum. In a lane: rows g and g + 8.
struct Query {
  int64_t token, h;  // query head
  int lo, hi;        // sees rows [lo, hi)
  bool some;
  float most, sum;
};
__device__ __forceinline__ Query query_at(const Flash& p, const FlashHead& head, int64_t at) {
  Query q{at / p.group, blockIdx.y * p.group + at % p.group, 0, 0, at < p.q.rows * p.group, lowest, 0};
  if (!q.some) return q;
  if (p.lo) q.lo = p.lo[q.token];
  q.hi = static_cast<int>(p.hi ? head.past + p.hi[q.token] : head.len);
  return q;
}

// scores of a row's part in this lane (two keys of each of four tiles) to weights; returns the earlier sums' factor.
__device__ __forceinline__ float soften(Query& q, float (&s)[keys / 8][4], int row, int64_t tile, const Flash& p) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  float most = q.most, sum = 0;
  bool seen[keys / 8][2];
#pragma unroll
  for (int j = 0; j < keys / 8; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t key = tile + j * 8 + 2 * t + i;
      float& x = s[j][2 * row + i];
      seen[j][i] = key >= q.lo && key < q.hi;
      x = capped(x * p.scale, p.softcap);
      if (seen[j][i]) most = fmaxf(most, x);
    }
  most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 1));
  most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 2));
#pragma unroll
  for (int j = 0; j < keys / 8; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& x = s[j][2 * row + i];
      x = seen[j][i] ? expf(x - most) : 0.0f;
      sum += x;
    }
  sum += __shfl_xor_sync(all_lanes, sum, 1);
  sum += __shfl_xor_sync(all_lanes, sum, 2);
  const float correction = expf(q.most - most);
  q.sum = q.sum * correction + sum;
  q.most = most;
  return correction;
}

// Grid: blocks of queries of a KV head (token major, then the heads that share it); KV heads.
template <int Chunks>
__global__ void __launch_bounds__(threads, 2) tiled_attend(Flash p) {
  __shared__ Room<Chunks> room;
  const FlashHead head = flash_head(p, blockIdx.y);
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, g = tid % 32 / 4, t = tid % 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * queries + warp * 16;
  Query rows[2] = {query_at(p, head, first + g), query_at(p, head, first + g + 8)};

  Split q[Chunks][4];  // the queries as the left side of products
#pragma unroll
  for (int c = 0; c < Chunks; ++c)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Query& r = rows[i % 2];
      const float* row = p.q.data + r.token * p.q.stride + r.h * p.head_dim;
      const int d = c * 16 + 2 * t + i / 2 * 8;
      q[c][i] = split(at_or_zero(row, d, p.head_dim, r.some), at_or_zero(row, d + 1, p.head_dim, r.some));
    }

  // Keys that any query of the block sees.
  int least = static_cast<int>(head.len), last = 0;
  for (const Query& r : rows)
    if (r.lo < r.hi) least = r.lo < least ? r.lo : least, last = r.hi > last ? r.hi : last;
  for (int step = 4; step < 32; step *= 2) {
    const int other = __shfl_xor_sync(all_lanes, least, step), end = __shfl_xor_sync(all_lanes, last, step);
    least = other < least ? other : least;
    last = end > last ? end : last;
  }
  if (tid % 32 == 0) room.least[warp] = least, room.last[warp] = last;
  __syncthreads();
  for (int w = 0; w < warps; ++w) {
    least = room.least[w] < least ? room.least[w] : least;
    last = room.last[w] > last ? room.last[w] : last;
  }

  float out[Chunks * 2][4] = {};
  for (int64_t tile = least / keys * keys; tile < last; tile += keys) {
    __syncthreads();
    load_tile(room, head, tile, p.head_dim);
    __syncthreads();
    float s[keys / 8][4] = {};
#pragma unroll
    for (int c = 0; c < Chunks; ++c) {
      const uint32_t high[4] = {q[c][0].high, q[c][1].high, q[c][2].high, q[c][3].high};
      const uint32_t low[4] = {q[c][0].low, q[c][1].low, q[c][2].low, q[c][3].low};
#pragma unroll
      for (int j = 0; j < keys / 8; ++j) {
        const int at = (j * 8 + g) * Room<Chunks>::k_stride + c * 8 + t;
        mma(s[j], low, room.k_high[at], room.k_high[at + 4]);
        mma(s[j], high, room.k_low[at], room.k_low[at + 4]);
        mma(s[j], high, room.k_high[at], room.k_high[at + 4]);
      }
    }
    const float above = soften(rows[0], s, 0, tile, p), below = soften(rows[1], s, 1, tile, p);
#pragma unroll
    for (int n = 0; n < Chunks * 2; ++n) {
      out[n][0] *= above;
      out[n][1] *= above;
      out[n][2] *= below;
      out[n][3] *= below;
    }
#pragma unroll
    for (int kk = 0; kk < keys / 16; ++kk) {
      const uint32_t weights[4] = {pack_halves(s[2 * kk][0], s[2 * kk][1]), pack_halves(s[2 * kk][2], s[2 * kk][3]),
                                   pack_halves(s[2 * kk + 1][0], s[2 * kk + 1][1]),
                                   pack_halves(s[2 * kk + 1][2], s[2 * kk + 1][3])};
#pragma unroll
      for (int n = 0; n < Chunks * 2; ++n) {
        const int at = (n * 8 + g) * v_stride + kk * 8 + t;
        mma(out[n], weights, room.v[at], room.v[at + 4]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!rows[r].some) continue;
    float* to = p.out.data + rows[r].token * p.out.stride + rows[r].h * p.head_dim;
    const float inverse = rows[r].sum > 0 ? 1.0f / rows[r].sum : 0.0f;
#pragma unroll
    for (int n = 0; n < Chunks * 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (n * 8 + 2 * t + i < p.head_dim) to[n * 8 + 2 * t + i] = out[n][2 * r + i] * inverse;
  }
}

template <int Chunks>
void launch(const Flash& p, int64_t n_kv, Stream stream) {
  const dim3 grid(blocks_of(p.q.rows * p.group, queries), static_cast<unsigned>(n_kv));
  FOVEAL_LAUNCH((tiled_attend<Chunks>), grid, threads, 0, stream, p);
}

}  // namespace

void flash_tiles(const Flash& p, int64_t n_kv, Stream stream) {
  if (p.head_dim <= 64) return launch<4>(p, n_kv, stream);
  if (p.head_dim <= 80) return launch<5>(p, n_kv, stream);
  if (p.head_dim <= 96) return launch<6>(p, n_kv, stream);
  launch<8>(p, n_kv, stream);
}

}  // namespace foveal::cuda
