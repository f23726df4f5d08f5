// Row i of out [n, m*cols] = rows index[i*m .. i*m + m - 1] of x side by side.
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void merge_elements(Rows out, ConstRows x, const int32_t* index, int64_t m) {
  for_elements(out.rows, out.cols, [&](int64_t row, int64_t col) {
    const int64_t from = index[row * m + col / x.cols];
    out.data[row * out.stride + col] = x.data[from * x.stride + col % x.cols];
  });
}

}  // namespace

void merge_rows(Rows out, ConstRows x, const int32_t* index, int64_t m, Stream stream) {
  if (out.rows == 0 || out.cols == 0) return;
  FOVEAL_LAUNCH(merge_elements, element_grid(out.rows, out.cols), element_threads, 0, stream, out, x, index, m);
}

}  // namespace foveal::cuda
