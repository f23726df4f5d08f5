// A CudaDevice whose memory is the host's, open only while a launch or a copy runs: the CUDA backend with kernels that
// the shim runs.
#include "engine/backend/cuda_device.h"
#include "tests/runtime/guarded_memory.h"

namespace foveal {
namespace {

class HostDevice final : public CudaDevice {
 public:
  HostDevice() : arena_(guarded::settings.total) {}
  std::string name() const override { return "shim:0"; }
  int multiprocessors() const override { return 2; }
  uint64_t free_bytes() override { return guarded::settings.total - guarded::settings.used; }
  void* allocate(size_t bytes) override { return arena_.allocate(bytes); }
  void release(void* p) noexcept override { arena_.release(p); }
  void copy_in(void* to, const void* host, size_t bytes) override { move(to, host, bytes, true, false); }
  void copy_out(void* host, const void* from, size_t bytes) override { move(host, from, bytes, false, true); }
  void copy_inside(void* to, const void* from, size_t bytes) override { move(to, from, bytes, true, true); }
  cuda::Stream begin() override {
    arena_.open();
    return nullptr;
  }
  void end(const char*) override { arena_.close(); }

 private:
  void move(void* to, const void* from, size_t bytes, bool to_inside, bool from_inside) {
    if (arena_.holds(to) != to_inside || arena_.holds(from) != from_inside)
      fail(ErrorCode::device, "a copy with a pointer of the wrong side");
    arena_.open();
    std::memcpy(to, from, bytes);
    arena_.close();
  }
  guarded::Arena arena_;
};

}  // namespace

GpuDevices find_cuda_devices() {
  if (!guarded::settings.none_because.empty()) return {{}, guarded::settings.none_because};
  return {{{0, "Shim", "7.5", guarded::settings.total, guarded::settings.total - guarded::settings.used}}, ""};
}

std::unique_ptr<CudaDevice> open_cuda_device(int) {
  return std::make_unique<HostDevice>();
}

}  // namespace foveal
