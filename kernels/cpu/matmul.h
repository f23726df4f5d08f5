// Matrix products on packed weights. A weight is cut into panels of 16 output rows; the activations into blocks of up
// to 8 (quantised) or 12 (float) tokens. Every output element is summed in one fixed order, so its value depends
// neither on the number of tokens nor on threads nor on the instruction set.
//
// Quantised panel: x = d * (code - offset) - m, with one d (and m) a row and sub-block of 32 or 16 inputs.
//   codes, a group of 32 inputs k0..k31 of 16 rows; k(4j+i), j = 0..7, i = 0..3, is quad j's byte i:
//     bytes    512 bytes: [j][row][i]
//     nibbles  256 bytes: [j % 4][row][i], quads 0..3 in the low and 4..7 in the high nibbles
//     five     nibbles, then 64 bytes [row][i]: bit j is the fifth bit of quad j
//     six      nibbles, then 128 bytes [j / 4][row][i]: bits 2(j % 4) and up are the two high bits of quad j
//     table    nibbles that are indices of 16 byte-wide codes
//   d, then m if the type has mins: [sub-block][row] in half precision, in units of the row: a power of two that puts
//   the row's largest one just below 2^15, so that no scale is lost to the range of half precision
// Activations: int8 per 32 inputs with a float32 scale (d = amax / 127), cut into blocks of 8, 4, 2, 1 tokens
// (a last block of 3 or 5 to 7 is filled up with zeros):
//   quads   [block][k / 4][token][4]  int8        block at byte t0 * cols
//   scales  [block][k / 32][token]    float32     block at t0 * cols / 32
//   sums    [block][k / 32 | k / 16][token] int32 and the same as float32: what offsets and mins need
// The order of a sum, per group of 32 inputs: part = sum over its sub-blocks of dot * d - m * sum, each step rounded
// once; acc = acc + part * scale, rounded once; in the end acc * unit + bias. The dots and sums are exact integers.
// Float panel: [k][row], of the file's type; activations packed [block][k][token] in blocks of 12, 8, 4, 2, 1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/dispatch.h"

namespace foveal {

constexpr int64_t kPanelRows = 16;

enum Codes : int { kNibbles, kFive, kSix, kBytes, kTable, kCodeForms };
constexpr int64_t code_bytes(Codes c) {  // a group
  return c == kFive ? 320 : c == kSix ? 384 : c == kBytes ? 512 : 256;
}

struct QuantPanel {
  const float* units;  // [16]
  const uint8_t* codes;
  const uint16_t* d;
  const uint16_t* m;     // nullptr: no mins
  const uint8_t* table;  // 16 codes of the form `table`
  int32_t offset;        // 0 where there are mins
  int64_t cols;          // a multiple of 32
  Codes form;            // before any expansion: tells how large codes may be
};

struct QuantTokens {  // one block
  int8_t* quads;
  float* scales;
  int32_t* sums[2];  // over 32 | 16 inputs
  float* fsums[2];
  int count;  // 8, 4, 2 or 1
  int used;   // of these tokens exist, the rest are zeros and have no results
};

// Where a product that takes the inputs range by range keeps its sums in between, and which range this one is.
struct RangeSums {
  float* sums;  // [count][panels][16], at a multiple of 64 bytes; unused when the range is both first and last
  bool first, last;
};

enum Floats : int { kF32, kF16, kBF16, kFloatForms };

// A range of inputs of a block of tokens, already advanced to it.
struct FloatTokens {
  const float* x;  // [k][count]
  int count;       // 12, 8, 4, 2 or 1
  int used;        // as in QuantTokens
  int64_t n_k;     // inputs
};

// Where a block of results goes: out[t * stride + row], rows < n_rows (1..16 a panel), bias may be null.
struct MatmulOut {
  float* out;
  int64_t stride;
  int n_rows;
  const float* bias;
};

struct MatmulKernels {
  // The first to.used tokens of the block `to` from rows of x, x_stride apart.
  void (*quantize)(const float* x, int64_t x_stride, int64_t cols, const QuantTokens& to);
  // One panel, codes decoded on the way: for few tokens. [Codes][sub-block 32 | 16]
  void (*few[kCodeForms][2])(const QuantPanel&, const QuantTokens&, const MatmulOut&);
  // Codes of any form -> the form `bytes`, and a range of inputs of one or two panels of that form, panels and tokens
  // already advanced to it: for many tokens. [sub-block 32 | 16]
  void (*expand[kCodeForms])(const QuantPanel&, uint8_t* bytes);
  void (*many[2])(const QuantPanel* w, int n_panels, const QuantTokens&, const RangeSums&, const MatmulOut&);
  // used rows of x side by side, then zeros: [k][count].
  void (*interleave)(const float* x, int64_t x_stride, int count, int used, int64_t cols, float* to);
  // One panel of any float type: for few tokens. [Floats]
  void (*few_floats[kFloatForms])(const void* panel, const FloatTokens&, const MatmulOut&);
  // n values -> float32, and a range of inputs of one or two panels of float32: for many tokens.
  void (*widen[kFloatForms])(const void* values, int64_t n, float* to);
  void (*many_floats)(const float* const* panels, int n_panels, const FloatTokens&, const RangeSums&, const MatmulOut&);
};

// The next block size for `left` tokens: the last block may be larger, one pass over the weights being dearer than a
// few products with zeros.
constexpr int next_quant_block(int64_t left) {
  return left > 4 ? 8 : left > 2 ? 4 : left > 1 ? 2 : 1;
}
constexpr int next_float_block(int64_t left) {
  return left > 8 ? 12 : left > 4 ? 8 : left > 2 ? 4 : left > 1 ? 2 : 1;
}

// The table of an available instruction set, with what this CPU has beside it.
const MatmulKernels& matmul_kernels(Isa isa);

namespace scalar {
extern const MatmulKernels matmul;
}
namespace avx2 {
extern const MatmulKernels matmul;
}
namespace avx2vnni {
extern const MatmulKernels matmul;
}
namespace avx512 {
extern const MatmulKernels matmul;
}
namespace neon {
extern const MatmulKernels matmul;
}
namespace neoni8mm {
extern const MatmulKernels matmul;
}

}  // namespace foveal
