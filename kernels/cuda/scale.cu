// x *= s.
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void scale_elements(Rows x, float s) {
  for_elements(x.rows, x.cols, [&](int64_t row, int64_t col) { x.data[row * x.stride + col] *= s; });
}

}  // namespace

void scale(Rows x, float s, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  FOVEAL_LAUNCH(scale_elements, element_grid(x.rows, x.cols), element_threads, 0, stream, x, s);
}

}  // namespace foveal::cuda
