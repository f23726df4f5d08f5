// The list of tables.
#include "kernels/cpu/matmul.h"

namespace foveal {

const MatmulKernels& matmul_kernels(Isa isa) {
  switch (isa) {
#ifdef FOVEAL_HAVE_avx512
    case Isa::avx512:
      return avx512::matmul;
#endif
#ifdef FOVEAL_HAVE_avx2
    case Isa::avx2:
#ifdef FOVEAL_HAVE_avx2vnni
      if (has_avx_vnni()) return avx2vnni::matmul;
#endif
      return avx2::matmul;
#endif
#ifdef FOVEAL_HAVE_neon
    case Isa::neon:
#ifdef FOVEAL_HAVE_neoni8mm
      if (has_neon_i8mm()) return neoni8mm::matmul;
#endif
      return neon::matmul;
#endif
    default:
      return scalar::matmul;
  }
}

}  // namespace foveal
