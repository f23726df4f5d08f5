// Rows of any tensor type as float32, and as affine codes for the packed layouts.
#pragma once

#include <cstdint>

#include "kernels/quant/types.h"

namespace foveal {

// n elements (a multiple of the type's block) from src; equal to ggml's own dequantisation bit for bit.
void dequantize_row(TensorType type, const void* src, float* dst, int64_t n);

// How a type reads as x = d * (value - offset) - m over sub-blocks of `sub` elements, value = table[code] or code.
struct AffineFormat {
  int bits = 0;  // of a code, 4, 5, 6 or 8; 0: the type has no such form
  int sub = 32;  // 32 or 16
  int offset = 0;
  bool mins = false;
  const uint8_t* table = nullptr;  // 16 values
  int value(int code) const { return table ? table[code] : code; }
};
AffineFormat affine_format(TensorType type);
// codes [n], d and m [n / sub] (m untouched without mins).
void unpack_affine(TensorType type, const void* src, int64_t n, uint8_t* codes, float* d, float* m);
// d and m alone.
void affine_scales(TensorType type, const void* src, int64_t n, float* d, float* m);

}  // namespace foveal
