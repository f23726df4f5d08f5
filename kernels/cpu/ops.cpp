// The list of tables.
#include "kernels/cpu/ops.h"

#include "kernels/cpu/scalar/ops.h"
#if defined(FOVEAL_HAVE_avx2)
#include "kernels/cpu/avx2/ops.h"
#endif
#if defined(FOVEAL_HAVE_avx512)
#include "kernels/cpu/avx512/ops.h"
#endif
#if defined(FOVEAL_HAVE_neon)
#include "kernels/cpu/neon/ops.h"
#endif

namespace foveal {

const CpuOps& cpu_ops(Isa isa) {
  switch (isa) {
#if defined(FOVEAL_HAVE_avx2)
    case Isa::avx2:
      return avx2::ops;
#endif
#if defined(FOVEAL_HAVE_avx512)
    case Isa::avx512:
      return avx512::ops;
#endif
#if defined(FOVEAL_HAVE_neon)
    case Isa::neon:
      return neon::ops;
#endif
    default:
      return scalar::ops;
  }
}

}  // namespace foveal
