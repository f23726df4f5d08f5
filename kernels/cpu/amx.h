// Matrix products by AMX tiles (16 rows of 64 bytes): for many tokens, beside the kernels of kernels/cpu/matmul.h.
//
// Integer products give the same bits as those kernels. Codes are expanded to signed bytes code - offset, in the
// panels' layout: a group of 32 inputs is a tile of 8 rows [quad][row][4]. Activations come in blocks of 16 tokens:
//   rows    [block][k / 32][token][32] int8
//   scales  [block][k / 32][token], fsums [block][k / 32 | k / 16][token] float32
//
// Products in bfloat16, an option for picture encoders: both factors are rounded to 8 bits of mantissa.
//   panel        [k / 2][row][2] bfloat16, inputs filled up with zeros to a multiple of 32
//   activations  [block][k / 32][token][32] bfloat16
// "bf16x3": both factors as a sum of two bfloat16, high * high + high * low + low * high: three such products one after
// the other over each range of inputs, which leaves 2^-16 of a factor or so.
// The order of a sum: per 32 inputs the products of even inputs one after the other, those of odd inputs likewise, the
// two added up, and that added to the sum so far, each step rounded once; numbers below the smallest normal one count
// as 0.
#pragma once

#include "kernels/cpu/matmul.h"

namespace foveal {

constexpr int64_t kTileTokens = 16, kTileInputs = 32;

struct TileTokens {  // a range of inputs of one block, already advanced to it
  const int8_t* rows;
  const float *scales, *fsums[2];  // over 32 | 16 inputs
  int used;
};

struct Bf16Tokens {   // the same of one or two blocks
  const uint16_t* x;  // the second block's at x + block_stride
  int64_t block_stride, n_groups;
  int blocks, used;
};

enum class TileShape { integer32, integer16, bf16 };  // sub-blocks of 32 | 16 inputs

struct AmxKernels {
  // The thread's tile registers are shaped before the first product and released after the last.
  void (*shape)(TileShape);
  void (*release)();

  // The first `used` tokens of a block; the rest must be zeros already. Arrays as in TileTokens.
  void (*quantize)(const float* x, int64_t x_stride, int used, int64_t cols, int8_t* rows, float* scales,
                   float* const fsums[2]);
  void (*recentre)(uint8_t* codes, int64_t n, int32_t offset);  // codes -= offset; n a multiple of 64
  // One panel of signed bytes, [sub-block 32 | 16]. sums: [token][16].
  void (*product[2])(const QuantPanel&, const TileTokens&, const RangeSums&, const MatmulOut&);

  // The first `used` tokens of a block rounded to nearest even, then zeros; `rest`: what that rounding left over,
  // rounded.
  void (*pack_bf16)(const float* x, int64_t x_stride, int used, int64_t cols, bool rest, uint16_t* to);
  // n inputs of a float panel -> such panels of their bfloat16 and, unless null, of what that rounding leaves over.
  void (*pairs)(Floats type, const void* values, int64_t n, uint32_t* high, uint32_t* low);
  // One or two panels. sums: [token][panels][16].
  void (*product_bf16)(const uint32_t* const* panels, int n_panels, const Bf16Tokens&, const RangeSums&,
                       const MatmulOut&);
};

// nullptr where the CPU or the operating system doesn't allow it.
const AmxKernels* amx_kernels(Isa isa);

// Nearest, ties to even; NaN stays NaN; no subnormal numbers.
static constexpr uint16_t bf16_of_bits(uint32_t bits) {
  if ((bits & 0x7f800000) == 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 64);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

namespace scalar {
// The specification of products in bfloat16, shaped as the tiles are.
void pack_bf16(const float* x, int64_t x_stride, int used, int64_t cols, bool rest, uint16_t* to);
void pairs(Floats type, const void* values, int64_t n, uint32_t* high, uint32_t* low);
void product_bf16(const uint32_t* const* panels, int n_panels, const Bf16Tokens& x, const RangeSums& r,
                  const MatmulOut& o);
}  // namespace scalar
namespace avx512amx {
extern const AmxKernels kernels;
}

}  // namespace foveal
