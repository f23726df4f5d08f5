// The table of kernels for AVX2 with FMA and F16C.
#pragma once

#include "kernels/cpu/ops.h"

namespace foveal::avx2 {
extern const CpuOps ops;
}
