// The activation functions of one number.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

// For x far below zero exp overflows to infinity and the quotient is -0: the limit.
__device__ __forceinline__ float activate(float x, Act kind) {
  switch (kind) {
    case Act::silu:
      return x / (1.0f + expf(-x));
    case Act::gelu_tanh:  // 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
      return x / (1.0f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
    case Act::gelu_erf:
      return 0.5f * x * erfcf(-x * 0.70710678118654752f);
    case Act::gelu_quick:
      return x / (1.0f + expf(-1.702f * x));
  }
  return x;
}

}  // namespace foveal::cuda
