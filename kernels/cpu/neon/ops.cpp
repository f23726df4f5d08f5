// The shared bodies of kernels/cpu/simd compiled for NEON.
#include "kernels/cpu/neon/ops.h"

#include "kernels/cpu/neon/vec.h"

#define FOVEAL_SIMD neon
// In the order of use.
// clang-format off
#include "kernels/cpu/simd/math.h"
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/stored.h"
#include "kernels/cpu/simd/measure.h"
#include "kernels/cpu/simd/attend.h"
#include "kernels/cpu/simd/decode.h"
// clang-format on

namespace foveal::neon {

const CpuOps ops = {rms_norm,     layer_norm, add,           scale,          act,          gated_act,      rope,
                    store_rows,   load_rows,  attend_tokens, attend_scratch, attend_block, decode_scratch, decode_chunk,
                    decode_merge, score_rows, softmax,       row_norm,       unit_sum,     cosine};

}  // namespace foveal::neon
