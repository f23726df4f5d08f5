// What builds without the CUDA backend answer.
#include "engine/backend/devices.h"
#include "engine/core/error.h"

namespace foveal {

GpuDevices cuda_devices() {
  return {{}, "this build has no CUDA backend"};
}

std::unique_ptr<Backend> make_cuda_backend(int) {
  fail(ErrorCode::device, "device 'cuda': this build has no CUDA backend; use device 'cpu' or 'auto'");
}

}  // namespace foveal
