// Where the prepared inputs of a matmul lie in its room: fp16 rows, padded with zeros to whole steps of the kernel, and
// per row the number that undoes its scaling.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

constexpr int matmul_step = 64;  // inputs that a block takes at a time

struct MatmulInputs {
  half* values;    // [T][padded]
  float* unscale;  // [T]
  int64_t padded;
};

inline MatmulInputs matmul_layout(void* room, int64_t rows, int64_t cols) {
  const int64_t padded = (cols + matmul_step - 1) / matmul_step * matmul_step;
  auto* values = static_cast<half*>(room);
  return {values, reinterpret_cast<float*>(values + rows * padded), padded};
}

}  // namespace foveal::cuda
