// CudaDevice on the CUDA runtime. Allocations are whole blocks of cudaMalloc: what is free is what the driver says.
#include <cuda_runtime.h>

#include "engine/backend/cuda_device.h"
#include "engine/core/error.h"

namespace foveal {
namespace {

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // what isn't sticky is forgotten: the next call starts clean
  fail(ErrorCode::device, call, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

class RealGraph final : public CudaGraph {
 public:
  ~RealGraph() override {
    if (exec) cudaGraphExecDestroy(exec);
  }
  cudaGraphExec_t exec = nullptr;
};

class RealDevice final : public CudaDevice {
 public:
  explicit RealDevice(int index) : index_(index) {
    check(cudaGetDeviceProperties(&properties_, index), "cudaGetDeviceProperties");
    check(cudaSetDevice(index), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~RealDevice() override {
    if (cudaSetDevice(index_) != cudaSuccess) return;
    for (const cudaEvent_t event : marks_)
      if (event) cudaEventDestroy(event);
    if (beside_) cudaStreamDestroy(beside_);
    cudaStreamDestroy(stream_);
  }
  std::string name() const override {
    return cat("cuda:", index_, " (", properties_.name, ", ", properties_.major, ".", properties_.minor, ")");
  }
  int multiprocessors() const override { return properties_.multiProcessorCount; }
  uint64_t free_bytes() override {
    size_t free = 0, total = 0;
    begin();
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  void* allocate(size_t bytes) override {
    void* p = nullptr;
    begin();
    const cudaError_t error = cudaMalloc(&p, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      const uint64_t free = free_bytes();
      fail(ErrorCode::out_of_memory, name(), ": cudaMalloc of ", bytes, " bytes failed, ", free, " of ",
           properties_.totalGlobalMem, " are free; fewer gpu_layers, a smaller n_ctx or kv budget need less");
    }
    check(error, "cudaMalloc");
    return p;
  }
  // The streams don't wait for others, so they are waited for: nothing that runs still uses the block.
  void release(void* p) noexcept override {
    if (cudaSetDevice(index_) != cudaSuccess) return;
    cudaStreamSynchronize(stream_);
    if (beside_) cudaStreamSynchronize(beside_);
    cudaFree(p);
  }
  void copy_in(void* to, const void* host, size_t bytes) override {
    begin();
    check(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync to the device");
  }
  void copy_out(void* host, const void* from, size_t bytes) override {
    begin();
    check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync from the device");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }
  void copy_inside(void* to, const void* from, size_t bytes) override {
    begin();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync on the device");
  }
  cuda::Stream begin() override {
    check(cudaSetDevice(index_), "cudaSetDevice");
    return stream_;
  }
  void end(const char* operation) override { check(cudaGetLastError(), operation); }

  bool captures() const override { return true; }
  void begin_capture() override {
    begin();
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }
  std::unique_ptr<CudaGraph> end_capture() override {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    auto out = std::make_unique<RealGraph>();
    const cudaError_t error = cudaGraphInstantiate(&out->exec, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "cudaGraphInstantiate");
    return out;
  }
  void drop_capture() noexcept override {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError();
  }
  void launch(CudaGraph& graph) override {
    begin();
    check(cudaGraphLaunch(static_cast<RealGraph&>(graph).exec, stream_), "cudaGraphLaunch");
  }

  void* allocate_locked(size_t bytes) override {
    void* p = nullptr;
    begin();
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError();
    return nullptr;
  }
  void release_locked(void* p) noexcept override {
    if (cudaSetDevice(index_) != cudaSuccess) return;
    if (beside_) cudaStreamSynchronize(beside_);
    cudaFreeHost(p);
  }
  void copy_in_beside(void* to, const void* host, size_t bytes) override {
    check(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, line(true)), "cudaMemcpyAsync beside the work");
  }
  void mark(CudaMark m, bool beside) override {
    const cudaStream_t stream = line(beside);
    cudaEvent_t& event = marks_[static_cast<size_t>(m)];
    if (!event) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    check(cudaEventRecord(event, stream), "cudaEventRecord");
  }
  void wait(CudaMark m, bool beside) override {
    const cudaEvent_t event = marks_[static_cast<size_t>(m)];
    if (event) check(cudaStreamWaitEvent(line(beside), event, 0), "cudaStreamWaitEvent");
  }
  void wait_on_host(CudaMark m) override {
    begin();
    const cudaEvent_t event = marks_[static_cast<size_t>(m)];
    if (event) check(cudaEventSynchronize(event), "cudaEventSynchronize");
  }

 private:
  cudaStream_t line(bool beside) {
    begin();
    if (!beside) return stream_;
    if (!beside_) check(cudaStreamCreateWithFlags(&beside_, cudaStreamNonBlocking), "cudaStreamCreate");
    return beside_;
  }

  int index_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr, beside_ = nullptr;
  cudaEvent_t marks_[static_cast<size_t>(CudaMark::count)] = {};
};

}  // namespace

GpuDevices find_cuda_devices() {
  GpuDevices out;
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    if (driver == 0) {
      out.none_because = "there is no NVIDIA driver";
    } else if (error == cudaErrorInsufficientDriver) {
      out.none_because =
          cat("the NVIDIA driver is for CUDA ", driver / 1000, ".", driver % 1000 / 10,
              " and too old for this build, which needs ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10);
    } else {
      out.none_because =
          error == cudaSuccess ? "the driver shows no GPU" : cat("cudaGetDeviceCount: ", cudaGetErrorString(error));
    }
    return out;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    size_t free = 0, total = 0;
    cudaError_t failed = cudaGetDeviceProperties(&properties, i);
    if (failed == cudaSuccess) failed = cudaSetDevice(i);
    if (failed == cudaSuccess) failed = cudaMemGetInfo(&free, &total);
    if (failed != cudaSuccess) {
      cudaGetLastError();
      out.none_because = cat("GPU ", i, ": ", cudaGetErrorString(failed));
    } else if (properties.major * 10 + properties.minor < 75) {
      out.none_because = cat("GPU ", i, " (", properties.name, ") has compute capability ", properties.major, ".",
                             properties.minor, ", expected 7.5 or newer");
    } else {
      out.found.push_back({i, properties.name, cat(properties.major, ".", properties.minor), total, free});
    }
  }
  return out;
}

std::unique_ptr<CudaDevice> open_cuda_device(int index) {
  return std::make_unique<RealDevice>(index);
}

}  // namespace foveal
