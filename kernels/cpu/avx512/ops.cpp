// The shared bodies of kernels/cpu/simd compiled for AVX-512 (F, BW, VL, DQ).
#include "kernels/cpu/avx512/ops.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics pass deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "kernels/cpu/avx512/vec.h"

#define FOVEAL_SIMD avx512
// In the order of use.
// clang-format off
#include "kernels/cpu/simd/math.h"
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/stored.h"
#include "kernels/cpu/simd/measure.h"
#include "kernels/cpu/simd/attend.h"
#include "kernels/cpu/simd/decode.h"
// clang-format on

namespace foveal::avx512 {

const CpuOps ops = {rms_norm,     layer_norm, add,           scale,          act,          gated_act,      rope,
                    store_rows,   load_rows,  attend_tokens, attend_scratch, attend_block, decode_scratch, decode_chunk,
                    decode_merge, score_rows, softmax,       row_norm,       unit_sum,     cosine};

}  // namespace foveal::avx512
