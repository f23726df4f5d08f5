// One GPU as the CUDA backend needs it: memory, copies, two streams. cuda_device.cu does it with the CUDA runtime; a
// test puts the host in its place.
#pragma once

#include <memory>
#include <string>

#include "engine/backend/devices.h"
#include "engine/core/tensor.h"
#include "kernels/cuda/launch.h"

namespace foveal {

// Points in the order of a stream that the other one, or the host, can wait for.
enum class CudaMark { slot_free_0, slot_free_1, slot_full_0, slot_full_1, piece_read_0, piece_read_1, count };

// Launches that were captured.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
};

// Work is ordered by one stream; copies beside it by a second. Every call may come from any thread, one at a time.
// Errors: device, naming the call that failed; allocate: out_of_memory, with numbers.
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

  // ---- replayed work
  virtual bool captures() const = 0;
  virtual void begin_capture() = 0;                      // launches from here on are kept instead of run
  virtual std::unique_ptr<CudaGraph> end_capture() = 0;  // them
  virtual void drop_capture() noexcept = 0;              // after a failure
  virtual void launch(CudaGraph& graph) = 0;

  // ---- beside the work
  // Host memory that copies read at the bus's full speed; nullptr where the system has none to give.
  virtual void* allocate_locked(size_t bytes) = 0;
  virtual void release_locked(void* p) noexcept = 0;  // what was to be copied from it is waited for
  virtual void copy_in_beside(void* to, const void* host, size_t bytes) = 0;  // `host` must stay until a later mark
  virtual void mark(CudaMark m, bool beside) = 0;  // here, in the work or beside it; replaces an earlier one
  virtual void wait(CudaMark m, bool beside) = 0;  // what comes after this runs after the mark, if there is one
  virtual void wait_on_host(CudaMark m) = 0;
};

GpuDevices find_cuda_devices();  // as cuda_devices()
std::unique_ptr<CudaDevice> open_cuda_device(int index);

}  // namespace foveal
