// The list of tables.
#include "kernels/cpu/ops.h"

#include "kernels/cpu/scalar/ops.h"

namespace foveal {

const CpuOps& cpu_ops(Isa isa) {
  switch (isa) {
    default:
      return scalar::ops;
  }
}

}  // namespace foveal
