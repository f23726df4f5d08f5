// What the two kernels of many-query attention share. Tiles of keys count from row 0 and what a query doesn't see
// changes nothing of its sums: a query's result doesn't depend on the queries beside it.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

struct Flash {
  Rows out;
  ConstRows q;
  const KvHead* heads;  // every head its own rows; or null, and then
  ConstRows k, v;       // [N, n_kv*D]
  int64_t group, head_dim;
  const int32_t *lo, *hi;  // query i sees [lo ? lo[i] : 0, hi ? past + hi[i] : N), past = length - T or 0
  float scale, softcap;
};

// One head's rows for a block.
struct FlashHead {
  const float *k, *v;
  int64_t k_stride, v_stride, past, len;
};
__device__ __forceinline__ FlashHead flash_head(const Flash& p, int64_t h) {
  if (p.heads) {
    const KvHead head = p.heads[h];
    return {static_cast<const float*>(head.k),
            static_cast<const float*>(head.v),
            p.head_dim,
            p.head_dim,
            head.len - p.q.rows,
            head.len};
  }
  return {p.k.data + h * p.head_dim, p.v.data + h * p.head_dim, p.k.stride, p.v.stride, 0, p.k.rows};
}

// Heads of at most 128 on tensor cores (flash_tiles.cu), larger ones in float32 (flash_plain.cu).
constexpr int64_t max_tiled_head_dim = 128;
void flash_tiles(const Flash& p, int64_t n_kv, Stream stream);
void flash_plain(const Flash& p, int64_t n_kv, Stream stream);
inline void flash(const Flash& p, int64_t n_kv, Stream stream) {
  if (p.head_dim <= max_tiled_head_dim) return flash_tiles(p, n_kv, stream);
  flash_plain(p, n_kv, stream);
}

}  // namespace foveal::cuda
