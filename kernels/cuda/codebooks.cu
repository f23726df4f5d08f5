// The IQ types' codebooks as one struct, for the host to copy to the device.
#include <cstring>

#include "kernels/cuda/common.cuh"
#include "kernels/quant/codebook_tables.h"

namespace foveal::cuda {

void fill_codebooks(Codebooks* host) {
  std::memcpy(host->iq2_xxs, iq2_xxs_grid, sizeof iq2_xxs_grid);
  std::memcpy(host->iq2_xs, iq2_xs_grid, sizeof iq2_xs_grid);
  std::memcpy(host->iq2_s, iq2_s_grid, sizeof iq2_s_grid);
  std::memcpy(host->iq1_s, iq1_s_grid, sizeof iq1_s_grid);
  std::memcpy(host->iq3_xxs, iq3_xxs_grid, sizeof iq3_xxs_grid);
  std::memcpy(host->iq3_s, iq3_s_grid, sizeof iq3_s_grid);
}

}  // namespace foveal::cuda
