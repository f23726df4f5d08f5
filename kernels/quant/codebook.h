// The types whose elements are entries of a codebook (IQ1, IQ2, IQ3).
#pragma once

#include <cstdint>

#include "kernels/quant/types.h"

namespace foveal {

// n elements, a multiple of 256.
void dequantize_codebook(TensorType type, const uint8_t* src, float* dst, int64_t n);

}  // namespace foveal
