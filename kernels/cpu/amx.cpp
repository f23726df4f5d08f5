// Where products by tiles are offered.
#include "kernels/cpu/amx.h"

namespace foveal {

const AmxKernels* amx_kernels([[maybe_unused]] Isa isa) {
#if defined(FOVEAL_HAVE_avx512amx)
  if (isa == Isa::avx512 && has_amx()) return &avx512amx::kernels;
#endif
  return nullptr;
}

}  // namespace foveal
