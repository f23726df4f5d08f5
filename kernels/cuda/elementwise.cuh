// A grid over all elements of a matrix: x over the columns, y over the rows in steps of the grid.
#pragma once

#include "kernels/cuda/common.cuh"

namespace foveal::cuda {

constexpr unsigned element_threads = 256;

inline dim3 element_grid(int64_t rows, int64_t cols) {
  return dim3(blocks_of(cols, element_threads), static_cast<unsigned>(rows < 65535 ? rows : 65535));
}

// Calls each(row, col) for the thread's elements.
template <class Each>
__device__ __forceinline__ void for_elements(int64_t rows, int64_t cols, Each each) {
  const int64_t col = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (col >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) each(row, col);
}

}  // namespace foveal::cuda
