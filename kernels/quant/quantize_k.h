// Quantisers of the K types: blocks of 256 whose sub-blocks have 6- or 8-bit scales of their own.
#pragma once

#include <cstdint>

#include "kernels/quant/types.h"

namespace foveal {

// Q4_K, Q5_K or Q6_K; n is a multiple of 256.
void quantize_k_row(TensorType type, const float* src, void* dst, int64_t n);

}  // namespace foveal
