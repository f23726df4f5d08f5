// The table of kernels for NEON.
#pragma once

#include "kernels/cpu/ops.h"

namespace foveal::neon {
extern const CpuOps ops;
}
