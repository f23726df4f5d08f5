// One tensor-core product of a warp, c[16][8] += a[16][16] b[16][8], fp16 in and float32 sums, with the fragments of
// PTX's mma.m16n8k16: lane = 4*g + t; a = rows g, g+8, g, g+8 at columns 2t, 2t, 2t+8, 2t+8 (two halves a word); b =
// column g, rows 2t and 2t+8; c = row g columns 2t, 2t+1, row g+8 columns 2t, 2t+1. The host shim computes the same.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

__device__ __forceinline__ uint32_t pack_halves(float a, float b) {
  return float_to_half_bits(a) | static_cast<uint32_t>(float_to_half_bits(b)) << 16;
}

#ifdef FOVEAL_CUDA_SHIM

inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  uint64_t first[32], second[32], right[32];
  shim::gather(a[0] | uint64_t{a[1]} << 32, first);
  shim::gather(a[2] | uint64_t{a[3]} << 32, second);
  shim::gather(b0 | uint64_t{b1} << 32, right);
  const int g = shim::lane() / 4, t = shim::lane() % 4;
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k) {
      const uint64_t* columns = k < 8 ? first : second;
      const uint64_t left = columns[g * 4 + k % 8 / 2] >> 32 * (i / 2) >> 16 * (k % 2);
      const uint64_t other = right[(2 * t + i % 2) * 4 + k % 8 / 2] >> 32 * (k / 8) >> 16 * (k % 2);
      c[i] += half_bits_to_float(static_cast<uint16_t>(left)) * half_bits_to_float(static_cast<uint16_t>(other));
    }
}

#else

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // the same in two halves
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#endif

}  // namespace foveal::cuda
