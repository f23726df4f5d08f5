// Where the prepared inputs of a matvec lie in its room: codes [T][cols] int8, scales [T][cols/32], and sums
// [T][cols/16] of the scaled codes, which the types with mins need.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

struct MatvecInputs {
  int8_t* codes;
  float *scales, *sums;
  int64_t cols;
};

inline MatvecInputs matvec_layout(void* room, int64_t rows, int64_t cols) {
  auto* codes = static_cast<int8_t*>(room);
  auto* scales = reinterpret_cast<float*>(codes + rows * cols);
  return {codes, scales, scales + rows * (cols / 32), cols};
}

}  // namespace foveal::cuda
