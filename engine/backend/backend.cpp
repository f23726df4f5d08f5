// What a backend does when it has no better way.
#include "engine/backend/backend.h"

#include <algorithm>

#include "engine/backend/hadamard.h"
#include "engine/core/error.h"

namespace foveal {

WeightPtr Backend::load_matrix_bf16(std::span<const TensorInfo* const>, bool) {
  fail(ErrorCode::unsupported, "vision_precision 'bf16' and 'bf16x3' need a CPU with AMX; found ", name(),
       "; use 'f32'");
}

void Backend::for_each(int64_t n, const std::function<void(int64_t)>& fn) {
  for (int64_t i = 0; i < n; ++i) fn(i);
}

void Backend::hadamard(Mat out, ConstMat x, int64_t head_dim) {
  for (int64_t i = 0; i < x.rows; ++i) {
    if (out.row(i) != x.row(i)) std::copy_n(x.row(i), x.cols, out.row(i));
    foveal::hadamard(out.row(i), x.cols, head_dim);
  }
}

}  // namespace foveal
