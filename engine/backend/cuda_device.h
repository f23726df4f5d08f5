// One GPU as the CUDA backend needs it: memory, copies, a stream. cuda_device.cu does it with the CUDA runtime; a test
// puts the host in its place.
#pragma once

#include <memory>
#include <string>

#include "engine/backend/devices.h"
#include "engine/core/tensor.h"
#include "kernels/cuda/launch.h"

namespace foveal {

// Work is ordered by one stream. Every call may come from any thread, one at a time. Errors: device, naming the call
// that failed; allocate: out_of_memory, with numbers.
class CudaDevice : public Memory {
 public:
  virtual std::string name() const = 0;  // "cuda:0 (NVIDIA GeForce RTX 3060, 8.6)"
  virtual int multiprocessors() const = 0;
  virtual uint64_t free_bytes() = 0;
  virtual void copy_in(void* to, const void* host, size_t bytes) = 0;      // `host` may change on return
  virtual void copy_out(void* host, const void* from, size_t bytes) = 0;   // complete on return
  virtual void copy_inside(void* to, const void* from, size_t bytes) = 0;  // may not overlap
  // Around launches: begin() makes the device the calling thread's, end() throws what went wrong since.
  virtual cuda::Stream begin() = 0;
  virtual void end(const char* operation) = 0;
};

GpuDevices find_cuda_devices();  // as cuda_devices()
std::unique_ptr<CudaDevice> open_cuda_device(int index);

}  // namespace foveal
