// Products of 16 x 16 tiles, fp16 in and float32 sums, by one warp: tensor cores (wmma), and on the host shim a plain
// twin with the same interface. Left and right tiles lie in shared memory as 16 rows of 16 numbers, `stride` apart.
#pragma once

#include "kernels/cuda/common.cuh"

#ifndef FOVEAL_CUDA_SHIM
#include <mma.h>
#endif

namespace foveal::cuda {

#ifdef FOVEAL_CUDA_SHIM

struct LeftTile {
  const half* p;
  int stride;
};
using RightTile = LeftTile;
struct SumTile {
  float sums[8];  // elements lane + 32 * i, row by row
};
inline void clear(SumTile& s) {
  for (float& v : s.sums) v = 0;
}
inline void read_tile(LeftTile& t, const half* p, int stride) {
  __syncwarp();
  t = {p, stride};
}
inline void multiply(SumTile& s, const LeftTile& a, const RightTile& b) {
  for (int i = 0; i < 8; ++i) {
    const int at = shim::lane() + 32 * i;
    for (int k = 0; k < 16; ++k)
      s.sums[i] += __half2float(a.p[at / 16 * a.stride + k]) * __half2float(b.p[at % 16 * b.stride + k]);
  }
}
// to[column * 16 + row]
inline void write_tile(float* to, const SumTile& s) {
  for (int i = 0; i < 8; ++i) {
    const int at = shim::lane() + 32 * i;
    to[at % 16 * 16 + at / 16] = s.sums[i];
  }
}

#else

using LeftTile = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, half, nvcuda::wmma::row_major>;
using RightTile = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, half, nvcuda::wmma::col_major>;
using SumTile = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;
__device__ __forceinline__ void clear(SumTile& s) {
  nvcuda::wmma::fill_fragment(s, 0.0f);
}
template <class Tile>
__device__ __forceinline__ void read_tile(Tile& t, const half* p, int stride) {
  nvcuda::wmma::load_matrix_sync(t, p, static_cast<unsigned>(stride));
}
__device__ __forceinline__ void multiply(SumTile& s, const LeftTile& a, const RightTile& b) {
  nvcuda::wmma::mma_sync(s, a, b, s);
}
// to[column * 16 + row]
__device__ __forceinline__ void write_tile(float* to, const SumTile& s) {
  nvcuda::wmma::store_matrix_sync(to, s, 16, nvcuda::wmma::mem_col_major);
}

#endif

}  // namespace foveal::cuda
