// Rows of float32 as blocks of the types that `foveal quantize` writes. For making files, not for running models.
#pragma once

#include <cstdint>

#include "kernels/quant/types.h"

namespace foveal {

// True for F32, F16, Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.
bool can_quantize(TensorType type);

// n finite elements (a multiple of the type's block), none larger than 65504, to dst. Q4_0, Q5_0, Q5_1 and Q8_0 equal
// ggml's reference bit for bit; the K types search the scales and mins of least weighted squared error.
void quantize_row(TensorType type, const float* src, void* dst, int64_t n);

}  // namespace foveal
