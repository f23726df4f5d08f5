// The table of kernels for AVX-512 (F, BW, VL, DQ).
#pragma once

#include "kernels/cpu/ops.h"

namespace foveal::avx512 {
extern const CpuOps ops;
}
