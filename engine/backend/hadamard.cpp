// Walsh-Hadamard transform, in place.
#include "engine/backend/hadamard.h"

#include <cmath>

namespace foveal {

void hadamard(float* x, int64_t n, int64_t head_dim) {
  const int64_t block = head_dim & -head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (float* b = x; b + block <= x + n; b += block) {
    for (int64_t half = 1; half < block; half *= 2)
      for (int64_t i = 0; i < block; i += 2 * half)
        for (int64_t j = i; j < i + half; ++j) {
          const float sum = b[j] + b[j + half];
          b[j + half] = b[j] - b[j + half];
          b[j] = sum;
        }
    for (int64_t i = 0; i < block; ++i) b[i] *= scale;
  }
}

}  // namespace foveal
