// Reads of blocks that are aligned to 1, 2 or 16 bytes, and arithmetic on four signed bytes in a word.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

__device__ __forceinline__ uint32_t read16(const uint8_t* p) {
  return *reinterpret_cast<const uint16_t*>(p);
}
__device__ __forceinline__ float read_half(const uint8_t* p) {
  return half_bits_to_float(*reinterpret_cast<const uint16_t*>(p));
}
// Four bytes of an address that is a multiple of 2.
__device__ __forceinline__ uint32_t read32_at2(const uint8_t* p) {
  return read16(p) | read16(p + 2) << 16;
}
// 4 * N bytes of an address that is a multiple of 2, by aligned words; nothing past them is read, and before them at
// most 2 bytes, to the start of a word.
template <int N>
__device__ __forceinline__ void read_words(const uint8_t* p, uint32_t (&words)[N]) {
  const unsigned odd = reinterpret_cast<uintptr_t>(p) & 2;
  const auto* base = reinterpret_cast<const uint32_t*>(p - odd);
  const uint32_t last = odd ? read16(p + 4 * N - 2) : 0;
#pragma unroll
  for (int i = 0; i < N; ++i) words[i] = base[i];
#pragma unroll
  for (int i = 0; i < N; ++i) words[i] = __funnelshift_r(words[i], i + 1 < N ? words[i + 1] : last, odd * 8);
}
// Four bytes of any address.
__device__ __forceinline__ uint32_t read32_at1(const uint8_t* p) {
  return p[0] | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

// Bytes 0..127 of x, each minus `by` (0..128).
__device__ __forceinline__ uint32_t minus_bytes(uint32_t x, uint32_t by) {
  return ((x | 0x80808080u) - by * 0x01010101u) ^ 0x80808080u;
}

// Bits 0..3 of x to bit `at` of bytes 0..3.
__device__ __forceinline__ uint32_t spread_bits(uint32_t x, int at) {
  return ((x & 15) * 0x00204081u & 0x01010101u) << at;
}

// Bytes of x, negated where the lowest four bits of `signs` are 1: ~v + 1, without a carry from byte to byte.
__device__ __forceinline__ uint32_t negate_bytes(uint32_t x, uint32_t signs) {
  const uint32_t ones = spread_bits(signs, 0), flipped = x ^ ones * 255;
  return ((flipped & 0x7f7f7f7fu) + ones) ^ (flipped & 0x80808080u);
}

// 16 bytes in four words; x holds four indices 0..15, one a byte.
struct Table16 {
  uint32_t words[4];
};
__device__ __forceinline__ uint32_t table_bytes(uint32_t x, const Table16& table) {
  uint32_t low = x & 0x07070707u;  // selectors of four bits each, side by side
  low = (low | low >> 4) & 0x00ff00ffu;
  low = (low | low >> 8) & 0xffffu;
  const uint32_t upper = (x >> 3 & 0x01010101u) * 255;
  return (__byte_perm(table.words[0], table.words[1], low) & ~upper) |
         (__byte_perm(table.words[2], table.words[3], low) & upper);
}

}  // namespace foveal::cuda
