// im2col of a picture: pixels [3][H][W] -> out [(H/P)*(W/P), 3*P*P], channel, then row, then column of the patch.
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void patch_elements(Rows out, const float* pixels, int64_t height, int64_t width, int64_t patch) {
  const int64_t across = width / patch;
  for_elements(out.rows, out.cols, [&](int64_t row, int64_t col) {
    const int64_t channel = col / (patch * patch), y = col / patch % patch, x = col % patch;
    const int64_t top = row / across * patch, left = row % across * patch;
    out.data[row * out.stride + col] = pixels[(channel * height + top + y) * width + left + x];
  });
}

}  // namespace

void patch_rows(Rows out, const float* pixels, int64_t height, int64_t width, int64_t patch, Stream stream) {
  if (out.rows == 0 || out.cols == 0) return;
  FOVEAL_LAUNCH(patch_elements, element_grid(out.rows, out.cols), element_threads, 0, stream, out, pixels, height,
                width, patch);
}

}  // namespace foveal::cuda
