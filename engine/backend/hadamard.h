// The rotation of K and V rows before they are quantised in blocks: spreads outliers over the row, so that a block's
// scale fits all of it. Queries are rotated likewise, so products stay; its own inverse.
#pragma once

#include <cstdint>

namespace foveal {

// Every run of 2^k numbers (the largest power of two that divides head_dim) of every head, in place: x = H x /
// sqrt(2^k) with H of Sylvester's construction. n numbers in all.
void hadamard(float* x, int64_t n, int64_t head_dim);

}  // namespace foveal
