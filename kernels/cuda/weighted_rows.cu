// out[i] (+)= sum over j < m of weight[i*m + j] * x[index[i*m + j]]: interpolation of position tables, pooling.
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

__global__ void weighted_elements(Rows out, ConstRows x, const int32_t* index, const float* weight, int64_t m,
                                  bool add) {
  for_elements(out.rows, out.cols, [&](int64_t row, int64_t col) {
    float sum = 0;
    for (int64_t j = row * m; j < (row + 1) * m; ++j) sum += weight[j] * x.data[index[j] * x.stride + col];
    float& to = out.data[row * out.stride + col];
    to = add ? to + sum : sum;
  });
}

}  // namespace

void weighted_rows(Rows out, ConstRows x, const int32_t* index, const float* weight, int64_t m, bool add,
                   Stream stream) {
  if (out.rows == 0 || out.cols == 0) return;
  FOVEAL_LAUNCH(weighted_elements, element_grid(out.rows, out.cols), element_threads, 0, stream, out, x, index, weight,
                m, add);
}

}  // namespace foveal::cuda
