// Codebooks of the IQ types. An entry holds 8 (uint64_t) or 4 (uint32_t) signed bytes, the first in the lowest byte.
#pragma once

#include <cstdint>

namespace foveal {

extern const uint64_t iq2_xxs_grid[256], iq2_xs_grid[512], iq2_s_grid[1024], iq1_s_grid[2048];
extern const uint32_t iq3_xxs_grid[256], iq3_s_grid[512];

}  // namespace foveal
