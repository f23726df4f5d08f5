// Matrix products on packed weights. A weight is cut into panels of 16 output rows; the activations into blocks of up
// to 16 (quantised) or 12 (float) tokens. Every output element is summed in one fixed order, so its value depends
// neither on the number of tokens nor on threads nor on the instruction set.
//
// Quantised panel: x = d * (code - offset) - m, with one d (and m) a row and sub-block of 32 or 16 inputs.
//   codes, a group of 32 inputs k0..k31 of 16 rows:
//     4 bit, 256 bytes: byte [j=0..3][row][i=0..3] holds k(4j+i) in its low and k(16+4j+i) in its high nibble
//     8 bit, 512 bytes: byte [j=0..7][row][i=0..3] holds k(4j+i)
//   d, then m if the type has mins: [sub-block][row] in half precision
// Activations: int8 per 32 inputs with a float32 scale (d = amax / 127), cut into blocks of 16, 8, 4, 2, 1 tokens:
//   quads   [block][k / 4][token][4]  int8        block at byte t0 * cols
//   scales  [block][k / 32][token]    float32     block at t0 * cols / 32
//   sums    [block][k / 16 | k / 32][token] int32, and the same times the scale as float32: what offsets and mins need
// Float panel: [k][row], half precision or float32; activations packed [block][k][token] in blocks of 12, 8, 4, 2, 1.
#pragma once

#include <cstddef>
#include <cstdint>

namespace foveal {

constexpr int64_t kPanelRows = 16;

struct QuantPanel {
  const uint8_t* codes;
  const uint16_t* d;
  const uint16_t* m;  // nullptr: no mins
  int32_t offset;
  int64_t cols;  // a multiple of 32
};

struct QuantTokens {  // one block
  const int8_t* quads;
  const float* scales;
  const int32_t* sums[2];  // over 32 | 16 inputs
  const float* scaled[2];  // sums * scales
  int count;               // 16, 8, 4, 2 or 1
};

struct FloatPanel {
  const void* values;
  int64_t cols;
};

// Where a block of results goes: out[t * stride + row], rows < n_rows (1..16), bias may be null.
struct MatmulOut {
  float* out;
  int64_t stride;
  int n_rows;
  const float* bias;
};

struct MatmulKernels {
  // One block of `count` tokens of x (rows x_stride apart) -> quads, scales and the sums of each 16 inputs.
  void (*quantize)(const float* x, int64_t x_stride, int count, int64_t cols, int8_t* quads, float* scales,
                   int32_t* sums16);
  // [bits 4 | 8][sub-block 32 | 16]
  void (*quant[2][2])(const QuantPanel&, const QuantTokens&, const MatmulOut&);
  // [F32 | F16]; x packed [k][count]
  void (*floats[2])(const FloatPanel&, const float* x, int count, const MatmulOut&);
};

// The next block size for `left` tokens.
constexpr int next_quant_block(int64_t left) {
  return left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}
constexpr int next_float_block(int64_t left) {
  return left >= 12 ? 12 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

namespace scalar {
extern const MatmulKernels matmul;
}
namespace avx2 {
extern const MatmulKernels matmul;
}
namespace avx512 {
extern const MatmulKernels matmul;
}
namespace neon {
extern const MatmulKernels matmul;
}

}  // namespace foveal
