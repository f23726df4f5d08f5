// x += y, or x += y * scale with one scale a column.
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void add_elements(Rows x, ConstRows y, const float* scale) {
  for_elements(x.rows, x.cols, [&](int64_t row, int64_t col) {
    const float value = y.data[row * y.stride + col];
    x.data[row * x.stride + col] += scale ? value * scale[col] : value;
  });
}

}  // namespace

void add(Rows x, ConstRows y, const float* scale, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  FOVEAL_LAUNCH(add_elements, element_grid(x.rows, x.cols), element_threads, 0, stream, x, y, scale);
}

}  // namespace foveal::cuda
