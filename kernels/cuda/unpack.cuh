// 32 weights at a time out of GGUF blocks of any quantised type, as signed 8-bit codes with their scales: what the
// matrix products and embed_rows read. Unit u of a row covers two runs of 16 neighbouring elements of it.
#pragma once

#include "kernels/cuda/bytes.cuh"

namespace foveal::cuda {

// Element at[h] + i (h = 0, 1; i < 16) is code * d[h] - m[h], the codes being the bytes of q[4*h .. 4*h+3] in order.
// Equal to kernels/quant's dequantisation bit for bit, product and difference each rounded.
struct Unit {
  uint32_t q[8];
  float d[2], m[2];
  int at[2];  // counted from the block's first element
};

// How a type's blocks are cut. A block has `elements` / 32 units, in order.
template <TensorType>
struct Format;

#define FOVEAL_FORMAT(TYPE, ELEMENTS, BYTES, MINS)                                                \
  template <>                                                                                     \
  struct Format<TensorType::TYPE> {                                                               \
    static constexpr int elements = ELEMENTS, bytes = BYTES;                                      \
    static constexpr bool mins = MINS;                                                            \
    __device__ static inline void unpack(Unit&, const uint8_t* b, int u, const Codebooks* books); \
  };                                                                                              \
  __device__ inline void Format<TensorType::TYPE>::unpack(                                        \
      Unit& o, [[maybe_unused]] const uint8_t* b, [[maybe_unused]] int u, [[maybe_unused]] const Codebooks* books)

__device__ __forceinline__ void set_scale(Unit& o, float d, float m = 0) {
  o.d[0] = o.d[1] = d;
  o.m[0] = o.m[1] = m;
}
// The unit's elements in order.
__device__ __forceinline__ void set_straight(Unit& o, int u) {
  o.at[0] = 32 * u;
  o.at[1] = 32 * u + 16;
}
// Four words of nibbles: the low ones are the first run, the high ones the second.
__device__ __forceinline__ void set_nibbles(Unit& o, const uint32_t (&words)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    o.q[i] = words[i] & 0x0f0f0f0fu;
    o.q[4 + i] = words[i] >> 4 & 0x0f0f0f0fu;
  }
}
__device__ __forceinline__ void set_nibbles(Unit& o, const uint8_t* qs) {
  uint32_t words[4];
  read_words(qs, words);
  set_nibbles(o, words);
}
__device__ __forceinline__ void minus_all(Unit& o, uint32_t by) {
#pragma unroll
  for (int i = 0; i < 8; ++i) o.q[i] = minus_bytes(o.q[i], by);
}
// Bit i of qh is bit 4 of element i.
__device__ __forceinline__ void set_fifth_bits(Unit& o, uint32_t qh) {
#pragma unroll
  for (int i = 0; i < 8; ++i) o.q[i] |= spread_bits(qh >> 4 * i, 4);
}

// ---- blocks of 32
FOVEAL_FORMAT(Q4_0, 32, 18, false) {
  set_straight(o, 0);
  set_scale(o, read_half(b));
  set_nibbles(o, b + 2);
  minus_all(o, 8);
}
FOVEAL_FORMAT(Q4_1, 32, 20, true) {
  set_straight(o, 0);
  set_scale(o, read_half(b), -read_half(b + 2));
  set_nibbles(o, b + 4);
}
FOVEAL_FORMAT(Q5_0, 32, 22, false) {
  set_straight(o, 0);
  set_scale(o, read_half(b));
  set_nibbles(o, b + 6);
  set_fifth_bits(o, read32_at2(b + 2));
  minus_all(o, 16);
}
FOVEAL_FORMAT(Q5_1, 32, 24, true) {
  set_straight(o, 0);
  set_scale(o, read_half(b), -read_half(b + 2));
  set_nibbles(o, b + 8);
  set_fifth_bits(o, read32_at2(b + 4));
}
FOVEAL_FORMAT(Q8_0, 32, 34, false) {
  set_straight(o, 0);
  set_scale(o, read_half(b));
  read_words(b + 2, o.q);
}

__device__ __forceinline__ void set_table(Unit& o, const Table16& table) {
#pragma unroll
  for (int i = 0; i < 8; ++i) o.q[i] = table_bytes(o.q[i], table);
}
__device__ __forceinline__ void set_iq4(Unit& o) {  // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113
  set_table(o, {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u});
}
FOVEAL_FORMAT(IQ4_NL, 32, 18, false) {
  set_straight(o, 0);
  set_scale(o, read_half(b));
  set_nibbles(o, b + 2);
  set_iq4(o);
}
FOVEAL_FORMAT(MXFP4, 32, 17, false) {  // byte 0: exponent of the scale, 2^(e - 128): codes are doubled values
  const uint32_t e = b[0];
  set_straight(o, 0);
  set_scale(o, __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23));
  const uint32_t words[4] = {read32_at1(b + 1), read32_at1(b + 5), read32_at1(b + 9), read32_at1(b + 13)};
  set_nibbles(o, words);
  set_table(o, {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu});  // 0 1 2 3 4 6 8 12, then their negatives
}

// ---- blocks of 256 with scales and codes
// Two bits of each of 32 bytes: unit u = elements 32u.. of qs[64], 128 elements to 32 bytes.
__device__ __forceinline__ void set_pairs(Unit& o, const uint8_t* qs, int u) {
  read_words(qs + u / 4 * 32, o.q);
#pragma unroll
  for (int i = 0; i < 8; ++i) o.q[i] = o.q[i] >> 2 * (u % 4) & 0x03030303u;
}
FOVEAL_FORMAT(Q2_K, 256, 84, true) {
  const float d = read_half(b + 80), dmin = read_half(b + 82);
  set_straight(o, u);
  for (int h = 0; h < 2; ++h) {
    const int scale = b[2 * u + h];
    o.d[h] = d * static_cast<float>(scale & 15);
    o.m[h] = dmin * static_cast<float>(scale >> 4);
  }
  set_pairs(o, b + 16, u);
}
FOVEAL_FORMAT(Q3_K, 256, 110, false) {
  const uint8_t* scales = b + 96;
  set_straight(o, u);
  for (int h = 0; h < 2; ++h) {
    const int k = 2 * u + h, low = k < 8 ? scales[k] & 15 : scales[k - 8] >> 4;
    o.d[h] = read_half(b + 108) * static_cast<float>((low | (scales[8 + k % 4] >> 2 * (k / 4) & 3) << 4) - 32);
    o.m[h] = 0;
  }
  set_pairs(o, b + 32, u);
  uint32_t high[8];
  read_words(b, high);
#pragma unroll
  for (int i = 0; i < 8; ++i) o.q[i] = minus_bytes(o.q[i] | (high[i] >> u & 0x01010101u) << 2, 4);
}

// The first 16 bytes of Q4_K and Q5_K, read at once: d, dmin, and scale and min of 8 sub-blocks, 6 bits each.
__device__ __forceinline__ void set_k_scales(Unit& o, const uint8_t* b, int u) {
  const uint4 head = *reinterpret_cast<const uint4*>(b);
  const float d = half_bits_to_float(static_cast<uint16_t>(head.x));
  const float dmin = half_bits_to_float(static_cast<uint16_t>(head.x >> 16));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int j = u / 2 * 2 + h, shift = j % 4 * 8;
    const uint32_t s0 = head.y >> shift, s1 = head.z >> shift, s2 = head.w >> shift;
    const uint32_t scale = j < 4 ? s0 & 63 : (s2 & 15) | (s0 >> 6 & 3) << 4;
    const uint32_t min = j < 4 ? s1 & 63 : (s2 >> 4 & 15) | (s1 >> 6 & 3) << 4;
    o.d[h] = d * static_cast<float>(scale);
    o.m[h] = dmin * static_cast<float>(min);
  }
}
// Unit u of the 128 bytes of nibbles: its 16 bytes hold elements of two sub-blocks, 32 elements apart.
__device__ __forceinline__ void set_k_nibbles(Unit& o, const uint8_t* qs, int u) {
  const uint4 words = *reinterpret_cast<const uint4*>(qs + 16 * u);
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
  o.at[0] = u / 2 * 64 + u % 2 * 16;
  o.at[1] = o.at[0] + 32;
  set_nibbles(o, w);
}
FOVEAL_FORMAT(Q4_K, 256, 144, true) {
  set_k_scales(o, b, u);
  set_k_nibbles(o, b + 16, u);
}
FOVEAL_FORMAT(Q5_K, 256, 176, true) {
  const int sub = u / 2 * 2;
  set_k_scales(o, b, u);
  set_k_nibbles(o, b + 48, u);
  const uint4 high = *reinterpret_cast<const uint4*>(b + 16 + u % 2 * 16);
  const uint32_t w[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    o.q[i] |= (w[i] >> sub & 0x01010101u) << 4;
    o.q[4 + i] |= (w[i] >> (sub + 1) & 0x01010101u) << 4;
  }
}
// Units 2p and 2p + 1 of a half block (128 elements) share low bytes: unit u = 4 * half + part, 32 elements in order.
FOVEAL_FORMAT(Q6_K, 256, 210, false) {
  const int half = u / 4, part = u % 4;
  const uint8_t *low = b + half * 64 + (part & 1) * 32, *high = b + 128 + half * 32;
  set_straight(o, u);
  for (int h = 0; h < 2; ++h) {
    o.d[h] = read_half(b + 208) * static_cast<float>(static_cast<int8_t>(b[192 + 2 * u + h]));
    o.m[h] = 0;
  }
  uint32_t fours[8], twos[8];
  read_words(low, fours);
  read_words(high, twos);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t four = fours[i] >> (part < 2 ? 0 : 4) & 0x0f0f0f0fu;
    o.q[i] = minus_bytes(four | (twos[i] >> 2 * part & 0x03030303u) << 4, 32);
  }
}
FOVEAL_FORMAT(IQ4_XS, 256, 136, false) {
  const int scale = (b[4 + u / 2] >> 4 * (u & 1) & 15) | (static_cast<int>(read16(b + 2)) >> 2 * u & 3) << 4;
  set_straight(o, u);
  set_scale(o, read_half(b) * static_cast<float>(scale - 32));
  set_nibbles(o, b + 8 + 16 * u);
  set_iq4(o);
}
FOVEAL_FORMAT(TQ2_0, 256, 66, false) {
  set_straight(o, u);
  set_scale(o, read_half(b + 64));
  set_pairs(o, b, u);
  minus_all(o, 1);
}
// Digits to the base of 3: digit n of a byte is the top of byte * 3^n (mod 256) times 3.
FOVEAL_FORMAT(TQ1_0, 256, 54, false) {
  set_straight(o, u);
  set_scale(o, read_half(b + 52));
  for (int i = 0; i < 8; ++i) {
    o.q[i] = 0;
    for (int k = 0; k < 4; ++k) {
      const int j = 32 * u + 4 * i + k;
      const int byte = j < 160 ? j % 32 : j < 240 ? 32 + (j - 160) % 16 : 48 + (j - 240) % 4;
      int shifted = b[byte];
      for (int n = j < 160 ? j / 32 : j < 240 ? (j - 160) / 16 : (j - 240) / 4; n > 0; --n) shifted = shifted * 3 & 255;
      o.q[i] |= static_cast<uint32_t>(shifted * 3 >> 8) << 8 * k;
    }
  }
  minus_all(o, 1);
}

// ---- blocks of 256 whose groups of eight are codebook entries
// Group l (0..3) of a unit: eight signed bytes, negative where the bits of `signs` are set.
__device__ __forceinline__ void set_eight(Unit& o, int l, uint32_t first, uint32_t second, uint32_t signs) {
  o.q[2 * l] = negate_bytes(first, signs);
  o.q[2 * l + 1] = negate_bytes(second, signs >> 4);
}
__device__ __forceinline__ void set_eight(Unit& o, int l, uint64_t entry, uint32_t signs) {
  set_eight(o, l, static_cast<uint32_t>(entry), static_cast<uint32_t>(entry >> 32), signs);
}
// Seven stored sign bits; the eighth makes their number even.
__device__ __forceinline__ uint32_t with_parity(uint32_t seven) {
  const uint32_t bits = seven & 127;
  return bits | (static_cast<uint32_t>(__popc(bits)) & 1) << 7;
}
__device__ __forceinline__ float two_bit_scale(float d, uint32_t s) {
  return d * (0.5f + static_cast<float>(s)) * 0.25f;
}

FOVEAL_FORMAT(IQ2_XXS, 256, 66, false) {
  const uint32_t index = read32_at2(b + 2 + 8 * u), signs = read32_at2(b + 6 + 8 * u);
  set_straight(o, u);
  set_scale(o, two_bit_scale(read_half(b), signs >> 28));
#pragma unroll
  for (int l = 0; l < 4; ++l) set_eight(o, l, books->iq2_xxs[index >> 8 * l & 255], with_parity(signs >> 7 * l));
}
// One scale of four bits for each run of 16.
__device__ __forceinline__ void set_two_bit_scales(Unit& o, float d, uint32_t scales) {
  o.d[0] = two_bit_scale(d, scales & 15);
  o.d[1] = two_bit_scale(d, scales >> 4);
  o.m[0] = o.m[1] = 0;
}
FOVEAL_FORMAT(IQ2_XS, 256, 74, false) {
  set_straight(o, u);
  set_two_bit_scales(o, read_half(b), b[66 + u]);
#pragma unroll
  for (int l = 0; l < 4; ++l) {
    const uint32_t q = read16(b + 2 + 8 * u + 2 * l);
    set_eight(o, l, books->iq2_xs[q & 511], with_parity(q >> 9));
  }
}
FOVEAL_FORMAT(IQ2_S, 256, 82, false) {
  set_straight(o, u);
  set_two_bit_scales(o, read_half(b), b[74 + u]);
#pragma unroll
  for (int l = 0; l < 4; ++l) {
    const int i = 4 * u + l, high = b[66 + u] >> 2 * l & 3;
    set_eight(o, l, books->iq2_s[b[2 + i] | high << 8], b[34 + i]);
  }
}
FOVEAL_FORMAT(IQ3_XXS, 256, 98, false) {
  const uint32_t signs = read32_at2(b + 66 + 4 * u);
  set_straight(o, u);
  set_scale(o, read_half(b) * (0.5f + static_cast<float>(signs >> 28)) * 0.5f);
#pragma unroll
  for (int l = 0; l < 4; ++l) {
    const uint8_t* q = b + 2 + 8 * u + 2 * l;
    set_eight(o, l, books->iq3_xxs[q[0]], books->iq3_xxs[q[1]], with_parity(signs >> 7 * l));
  }
}
FOVEAL_FORMAT(IQ3_S, 256, 110, false) {
  const int scale = b[106 + u / 2] >> 4 * (u % 2) & 15;
  set_straight(o, u);
  set_scale(o, read_half(b) * static_cast<float>(1 + 2 * scale));
#pragma unroll
  for (int l = 0; l < 4; ++l) {
    const uint8_t* q = b + 2 + 8 * u + 2 * l;
    const int high = b[66 + u] >> 2 * l;
    set_eight(o, l, books->iq3_s[q[0] | (high & 1) << 8], books->iq3_s[q[1] | (high & 2) << 7], b[74 + 4 * u + l]);
  }
}
// Eight entries of -1, 0, 1 with a shift of an eighth up or down: 8 * entry + shift, the scale an eighth.
__device__ __forceinline__ void set_shifted(Unit& o, int l, uint64_t entry, bool down) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t eight = static_cast<uint32_t>(entry >> 32 * i) << 3 & 0xf8f8f8f8u;
    o.q[2 * l + i] = down ? ((eight | 0x80808080u) - 0x01010101u) ^ (~eight & 0x80808080u) : eight | 0x01010101u;
  }
}
FOVEAL_FORMAT(IQ1_S, 256, 50, false) {
  const uint32_t qh = read16(b + 34 + 2 * u);
  set_straight(o, u);
  set_scale(o, read_half(b) * static_cast<float>(2 * (qh >> 12 & 7) + 1) * 0.125f);
#pragma unroll
  for (int l = 0; l < 4; ++l)
    set_shifted(o, l, books->iq1_s[b[2 + 4 * u + l] | (qh >> 3 * l & 7) << 8], (qh & 0x8000) != 0);
}
FOVEAL_FORMAT(IQ1_M, 256, 56, false) {  // the scale's bits: a nibble in the top of each of four words
  const uint8_t* scales = b + 48;
  const uint32_t bits = read16(scales) >> 12 | (read16(scales + 2) >> 8 & 0xf0) | (read16(scales + 4) >> 4 & 0xf00) |
                        (read16(scales + 6) & 0xf000);
  const float d = half_bits_to_float(static_cast<uint16_t>(bits));
  set_straight(o, u);
  for (int h = 0; h < 2; ++h) {
    const uint32_t scale = read16(scales + u / 2 * 2) >> (3 * (u % 2 * 2 + h)) & 7;
    o.d[h] = d * static_cast<float>(2 * scale + 1) * 0.125f;
    o.m[h] = 0;
  }
#pragma unroll
  for (int l = 0; l < 4; ++l) {
    const int nibble = b[32 + 2 * u + l / 2] >> 4 * (l % 2) & 15;
    set_shifted(o, l, books->iq1_s[b[4 * u + l] | (nibble & 7) << 8], (nibble & 8) != 0);
  }
}
#undef FOVEAL_FORMAT

// Element i of run h.
__device__ __forceinline__ float unit_value(const Unit& o, int h, int i) {
  const auto code = static_cast<int8_t>(o.q[4 * h + i / 4] >> 8 * (i % 4));
  return __fsub_rn(__fmul_rn(static_cast<float>(code), o.d[h]), o.m[h]);
}

// CALL(Q4_0) CALL(Q4_1) ... for the cases of a switch.
// clang-format off
#define FOVEAL_QUANTISED(CALL)                                                                                         \
  CALL(Q4_0) CALL(Q4_1) CALL(Q5_0) CALL(Q5_1) CALL(Q8_0) CALL(Q2_K) CALL(Q3_K) CALL(Q4_K) CALL(Q5_K) CALL(Q6_K)        \
  CALL(IQ2_XXS) CALL(IQ2_XS) CALL(IQ2_S) CALL(IQ3_XXS) CALL(IQ3_S) CALL(IQ1_S) CALL(IQ1_M) CALL(IQ4_NL) CALL(IQ4_XS)   \
  CALL(TQ1_0) CALL(TQ2_0) CALL(MXFP4)
// clang-format on

}  // namespace foveal::cuda
