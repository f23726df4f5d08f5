// The blocks of the quantised tensor types, byte for byte as in a GGUF file. "half" fields are IEEE half precision.
#pragma once

#include <cstdint>

namespace foveal {

using half_bits = uint16_t;

#pragma pack(push, 1)
struct BlockQ4_0 {
  half_bits d;
  uint8_t qs[16];
};
struct BlockQ4_1 {
  half_bits d, m;
  uint8_t qs[16];
};
struct BlockQ5_0 {
  half_bits d;
  uint8_t qh[4], qs[16];
};
struct BlockQ5_1 {
  half_bits d, m;
  uint8_t qh[4], qs[16];
};
struct BlockQ8_0 {
  half_bits d;
  int8_t qs[32];
};
struct BlockQ2_K {
  uint8_t scales[16], qs[64];
  half_bits d, dmin;
};
struct BlockQ3_K {
  uint8_t hmask[32], qs[64], scales[12];
  half_bits d;
};
struct BlockQ4_K {
  half_bits d, dmin;
  uint8_t scales[12], qs[128];
};
struct BlockQ5_K {
  half_bits d, dmin;
  uint8_t scales[12], qh[32], qs[128];
};
struct BlockQ6_K {
  uint8_t ql[128], qh[64];
  int8_t scales[16];
  half_bits d;
};
struct BlockIQ4_NL {
  half_bits d;
  uint8_t qs[16];
};
struct BlockIQ4_XS {
  half_bits d;
  uint16_t scales_h;
  uint8_t scales_l[4], qs[128];
};
struct BlockIQ2_XXS {
  half_bits d;
  uint16_t qs[32];
};
struct BlockIQ2_XS {
  half_bits d;
  uint16_t qs[32];
  uint8_t scales[8];
};
struct BlockIQ2_S {
  half_bits d;
  uint8_t qs[32], signs[32], qh[8], scales[8];
};
struct BlockIQ3_XXS {
  half_bits d;
  uint8_t qs[64];
  uint32_t scales_signs[8];
};
struct BlockIQ3_S {
  half_bits d;
  uint8_t qs[64], qh[8], signs[32], scales[4];
};
struct BlockIQ1_S {
  half_bits d;
  uint8_t qs[32];
  uint16_t qh[8];
};
struct BlockIQ1_M {
  uint8_t qs[32], qh[16];
  uint16_t scales[4];
};
struct BlockTQ1_0 {
  uint8_t qs[48], qh[4];
  half_bits d;
};
struct BlockTQ2_0 {
  uint8_t qs[64];
  half_bits d;
};
struct BlockMXFP4 {
  uint8_t e, qs[16];
};
#pragma pack(pop)

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);
static_assert(sizeof(BlockIQ2_XXS) == 66 && sizeof(BlockIQ2_XS) == 74 && sizeof(BlockIQ2_S) == 82);
static_assert(sizeof(BlockIQ3_XXS) == 98 && sizeof(BlockIQ3_S) == 110 && sizeof(BlockIQ1_S) == 50);
static_assert(sizeof(BlockIQ1_M) == 56 && sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);
static_assert(sizeof(BlockMXFP4) == 17);

}  // namespace foveal
