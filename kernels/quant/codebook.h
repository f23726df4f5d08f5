// The types whose elements are entries of a codebook (IQ1, IQ2, IQ3).
#pragma once

#include <cstdint>

#include "kernels/quant/types.h"

namespace foveal {

bool is_codebook(TensorType type);
// n elements, a multiple of 256.
void dequantize_codebook(TensorType type, const uint8_t* src, float* dst, int64_t n);
// The same as d * (code - offset), one d for `sub` elements (32 or 16, as affine_format says): entries are small
// integers, those of IQ1 with their shift are eighths.
void unpack_codebook(TensorType type, const uint8_t* src, int64_t n, int offset, int sub, uint8_t* codes, float* d);
void codebook_scales(TensorType type, const uint8_t* src, int64_t n, int sub, float* d);

}  // namespace foveal
