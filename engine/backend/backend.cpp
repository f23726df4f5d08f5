// What a backend does when it has no better way.
#include "engine/backend/backend.h"

#include "engine/core/error.h"

namespace foveal {

WeightPtr Backend::load_matrix_bf16(std::span<const TensorInfo* const>, bool) {
  fail(ErrorCode::unsupported, "vision_precision 'bf16' and 'bf16x3' need a CPU with AMX; found ", name(),
       "; use 'f32'");
}

}  // namespace foveal
