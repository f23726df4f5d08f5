// Encoder attention: every row sees the rows of its own segment, or all.
#include "kernels/cuda/flash.cuh"

namespace foveal::cuda {

namespace {

// Grid: segments. lo[i], hi[i] of the rows i of a segment are its ends.
__global__ void bounds(int32_t* lo, int32_t* hi, const int32_t* segments) {
  const int32_t first = segments[blockIdx.x], end = segments[blockIdx.x + 1];
  for (int32_t i = first + static_cast<int32_t>(threadIdx.x); i < end; i += static_cast<int32_t>(blockDim.x)) {
    lo[i] = first;
    hi[i] = end;
  }
}

}  // namespace

void segment_bounds(int32_t* lo, int32_t* hi, const int32_t* segments, int64_t n, Stream stream) {
  if (n == 0) return;
  FOVEAL_LAUNCH(bounds, static_cast<unsigned>(n), 128, 0, stream, lo, hi, segments);
}

void attend_full(Rows out, ConstRows q, ConstRows k, ConstRows v, int n_head, const int32_t* lo, const int32_t* hi,
                 float scale, Stream stream) {
  if (q.rows == 0) return;
  const int64_t head_dim = q.cols / n_head;
  const Flash p{out, q, nullptr, k, v, 1, head_dim, lo, hi, scale, 0.0f};
  flash(p, n_head, stream);
}

}  // namespace foveal::cuda
