// Attention of many queries against float32 rows, tile by tile with a running softmax (FlashAttention, arXiv
// 2205.14135), all in float32 on plain cores.
#include "kernels/cuda/flash.cuh"

namespace foveal::cuda {

namespace {

constexpr int threads = 128, keys = 32;  // keys of a tile

// Rows [first, first + rows) of `from` to shared memory [rows][stride]; zeros past n rows and past head_dim.
__device__ __forceinline__ void flash_load(float* to, int stride, const float* from, int64_t from_stride, int64_t first,
                                           int rows, int64_t n, int head_dim) {
  const int padded = (head_dim + 3) / 4 * 4;
  for (int i = static_cast<int>(threadIdx.x); i < rows * padded; i += threads) {
    const int r = i / padded, d = i % padded;
    to[r * stride + d] = first + r < n && d < head_dim ? from[(first + r) * from_stride + d] : 0.0f;
  }
}

// Grid: blocks of 8*R queries of a KV head (token major, then the heads that share it); KV heads. 8 x 16 threads: R
// queries and 2 keys each in the scores, R queries and C * 4 columns (64 apart) in the result.
template <int R, int C>
__global__ void __launch_bounds__(threads) plain_attend(Flash p) {
  constexpr int queries = 8 * R;
  const int head_dim = static_cast<int>(p.head_dim), stride = (head_dim + 3) / 4 * 4 + 4;
  FOVEAL_SHARED(shared);
  auto* q = reinterpret_cast<float*>(shared);  // [queries][stride]
  float* rows = q + queries * stride;          // [keys][stride]: K, then V
  float* weights = rows + keys * stride;       // [queries][keys + 1]
  const FlashHead head = flash_head(p, blockIdx.y);
  const int tid = static_cast<int>(threadIdx.x), ty = tid / 16, tx = tid % 16;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * queries, n_queries = p.q.rows * p.group;

  for (int i = tid; i < queries * (stride - 4); i += threads) {
    const int r = i / (stride - 4), d = i % (stride - 4);
    const int64_t token = (first + r) / p.group, h = blockIdx.y * p.group + (first + r) % p.group;
    q[r * stride + d] = first + r < n_queries && d < head_dim ? p.q.data[token * p.q.stride + h * head_dim + d] : 0.0f;
  }

  int64_t lo[R], hi[R], least = head.len, last = 0;  // of this thread's queries; of the block's
  for (int r = 0; r < queries; ++r) {
    const int64_t token = (first + r) / p.group;
    const bool some = first + r < n_queries;
    const int64_t from = some && p.lo ? p.lo[token] : 0;
    const int64_t to = !some ? 0 : p.hi ? head.past + p.hi[token] : head.len;
#pragma unroll
    for (int i = 0; i < R; ++i)
      if (r == ty * R + i) lo[i] = from, hi[i] = to;
    if (some && from < to) least = from < least ? from : least, last = to > last ? to : last;
  }

  float most[R], sum[R];
  float4 acc[R][C];
#pragma unroll
  for (int i = 0; i < R; ++i) {
    most[i] = lowest;
    sum[i] = 0;
    for (int c = 0; c < C; ++c) acc[i][c] = make_float4(0, 0, 0, 0);
  }
  for (int64_t tile = least / keys * keys; tile < last; tile += keys) {
    __syncthreads();
    flash_load(rows, stride, head.k, head.k_stride, tile, keys, head.len, head_dim);
    __syncthreads();
    float s[R][2] = {};
    for (int d = 0; d < stride - 4; d += 4) {
      const float4 k0 = *reinterpret_cast<const float4*>(rows + tx * stride + d);
      const float4 k1 = *reinterpret_cast<const float4*>(rows + (tx + 16) * stride + d);
#pragma unroll
      for (int i = 0; i < R; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(q + (ty * R + i) * stride + d);
        s[i][0] = fmaf(x.x, k0.x, fmaf(x.y, k0.y, fmaf(x.z, k0.z, fmaf(x.w, k0.w, s[i][0]))));
        s[i][1] = fmaf(x.x, k1.x, fmaf(x.y, k1.y, fmaf(x.z, k1.z, fmaf(x.w, k1.w, s[i][1]))));
      }
    }
#pragma unroll
    for (int i = 0; i < R; ++i) {
      bool seen[2];
      float largest = most[i];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int64_t key = tile + tx + 16 * j;
        seen[j] = key >= lo[i] && key < hi[i];
        s[i][j] = capped(s[i][j] * p.scale, p.softcap);
        if (seen[j]) largest = fmaxf(largest, s[i][j]);
      }
      for (int step = 8; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, step));
      const float correction = expf(most[i] - largest);
      most[i] = largest;
      float part = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float weight = seen[j] ? expf(s[i][j] - largest) : 0.0f;
        weights[(ty * R + i) * (keys + 1) + tx + 16 * j] = weight;
        part += weight;
      }
      for (int step = 8; step > 0; step /= 2) part += __shfl_xor_sync(all_lanes, part, step);
      sum[i] = sum[i] * correction + part;
#pragma unroll
      for (int c = 0; c < C; ++c)
        acc[i][c] = make_float4(acc[i][c].x * correction, acc[i][c].y * correction, acc[i][c].z * correction,
                                acc[i][c].w * correction);
    }
    __syncthreads();
    flash_load(rows, stride, head.v, head.v_stride, tile, keys, head.len, head_dim);
    __syncthreads();
    for (int r = 0; r < keys; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int d = tx * 4 + c * 64;
        if (d >= stride - 4) break;
        const float4 x = *reinterpret_cast<const float4*>(rows + r * stride + d);
#pragma unroll
        for (int i = 0; i < R; ++i) {
          const float w = weights[(ty * R + i) * (keys + 1) + r];
          acc[i][c] = make_float4(fmaf(w, x.x, acc[i][c].x), fmaf(w, x.y, acc[i][c].y), fmaf(w, x.z, acc[i][c].z),
                                  fmaf(w, x.w, acc[i][c].w));
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int64_t at = first + ty * R + i, token = at / p.group, h = blockIdx.y * p.group + at % p.group;
    if (at >= n_queries) break;
    float* out = p.out.data + token * p.out.stride + h * head_dim;
    const float inverse = sum[i] > 0 ? 1.0f / sum[i] : 0.0f;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const float* four = reinterpret_cast<const float*>(&acc[i][c]);
      for (int j = 0; j < 4; ++j)
        if (tx * 4 + c * 64 + j < head_dim) out[tx * 4 + c * 64 + j] = four[j] * inverse;
    }
  }
}

}  // namespace

// Two queries a thread and 256 columns: what fits into the shared memory of every card.
void flash_plain(const Flash& p, int64_t n_kv, Stream stream) {
  constexpr int R = 2, C = static_cast<int>(max_head_dim / 64);
  const dim3 grid(blocks_of(p.q.rows * p.group, 8 * R), static_cast<unsigned>(n_kv));
  const int64_t stride = (p.head_dim + 3) / 4 * 4 + 4;
  const auto shared = static_cast<size_t>((8 * R + keys) * stride + 8 * R * (keys + 1)) * 4;
  cudaFuncSetAttribute(plain_attend<R, C>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  FOVEAL_LAUNCH((plain_attend<R, C>), grid, threads, shared, stream, p);
}

}  // namespace foveal::cuda
