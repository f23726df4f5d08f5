// Rotary embedding (arXiv 2104.09864) in place: pair (a, b) -> (a cos - b sin, a sin + b cos), one thread a pair.
#include "kernels/cuda/elementwise.cuh"

namespace foveal::cuda {

namespace {

// cs [T, n_rot]: half = n_rot/2 cosines, then the sines; columns of the grid: head * half + pair.
__global__ void rope_pairs(Rows x, int n_head, ConstRows cs, bool half_split) {
  const int64_t head_dim = x.cols / n_head, half = cs.cols / 2;
  for_elements(x.rows, n_head * half, [&](int64_t row, int64_t col) {
    const int64_t i = col % half;
    float* head = x.data + row * x.stride + col / half * head_dim;
    const float* turn = cs.data + row * cs.stride;
    float& a = head[half_split ? i : 2 * i];
    float& b = head[half_split ? i + half : 2 * i + 1];
    const float c = turn[i], s = turn[half + i], a0 = a, b0 = b;
    a = a0 * c - b0 * s;
    b = a0 * s + b0 * c;
  });
}

}  // namespace

void rope(Rows x, int n_head, ConstRows cs, bool half_split, Stream stream) {
  const int64_t pairs = n_head * (cs.cols / 2);
  if (x.rows == 0 || pairs == 0) return;
  FOVEAL_LAUNCH(rope_pairs, element_grid(x.rows, pairs), element_threads, 0, stream, x, n_head, cs, half_split);
}

}  // namespace foveal::cuda
