// x = act(x).
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void act_elements(Rows x, Act kind) {
  for_elements(x.rows, x.cols, [&](int64_t row, int64_t col) {
    float& value = x.data[row * x.stride + col];
    value = activate(value, kind);
  });
}

}  // namespace

void act(Rows x, Act kind, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  FOVEAL_LAUNCH(act_elements, element_grid(x.rows, x.cols), element_threads, 0, stream, x, kind);
}

}  // namespace foveal::cuda
