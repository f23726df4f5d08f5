// The GPUs that this build can use, and the backend on one of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.h"

namespace foveal {

struct GpuDevice {
  int index = 0;
  std::string name, capability;  // "NVIDIA GeForce RTX 3060", "8.6"
  uint64_t total = 0, free = 0;  // bytes
};
struct GpuDevices {
  std::vector<GpuDevice> found;
  std::string none_because;  // in words, when there is none
};
// Never fails: what hinders is said in none_because.
GpuDevices cuda_devices();
// A backend on the device of that index. Errors: device (names the call that failed).
std::unique_ptr<Backend> make_cuda_backend(int index);

}  // namespace foveal
