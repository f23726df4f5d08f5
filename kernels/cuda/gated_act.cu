// out = act(gate) * up.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void gated_act_elements(Rows out, ConstRows gate, ConstRows up, Act kind) {
  for_elements(out.rows, out.cols, [&](int64_t row, int64_t col) {
    out.data[row * out.stride + col] =
        activate(gate.data[row * gate.stride + col], kind) * up.data[row * up.stride + col];
  });
}

}  // namespace

void gated_act(Rows out, ConstRows gate, ConstRows up, Act kind, Stream stream) {
  if (out.rows == 0 || out.cols == 0) return;
  FOVEAL_LAUNCH(gated_act_elements, element_grid(out.rows, out.cols), element_threads, 0, stream, out, gate, up, kind);
}

}  // namespace foveal::cuda
