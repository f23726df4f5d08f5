// A step of decode: its calls wait until all are known, then run as a captured graph where they are those of the steps
// before. What changes from step to step (KV heads, targets of copies) is in one block of the GPU's memory that is
// copied before.
#pragma once

#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "engine/backend/cuda_device.h"

namespace foveal {

class CudaStep final : public StepGraph {
 public:
  explicit CudaStep(CudaDevice& device) : device_(device), block_(size_t{32} << 10, &device) {}
  void begin();
  // A call, and all that tells it from another: pointers, shapes, numbers, in words of 64 bits or matrices.
  template <class... Id>
  void add(const char* operation, std::function<void(cuda::Stream)> launch, const Id&... id) {
    calls_.push_back({operation, std::move(launch)});
    put(operation);
    (put(id), ...);
  }
  // Where these bytes will be on the GPU when the step runs; nullptr when the block is full: the next step's is larger.
  const void* parameter(const void* host, size_t bytes);
  void run();        // replayed, or captured at the second time in a row, or call by call
  void run_calls();  // call by call

 private:
  struct Call {
    const char* operation;
    std::function<void(cuda::Stream)> launch;
  };
  template <class T>
  void put(const T& value) {
    static_assert(std::is_scalar_v<T> && sizeof(T) <= 8);
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    id_.push_back(word);
  }
  void put(const Mat& m) { put(ConstMat(m)); }
  void put(const ConstMat& m) {
    put(m.data);
    put(m.rows);
    put(m.cols);
    put(m.stride);
  }
  void copy_parameters();

  CudaDevice& device_;
  std::vector<Call> calls_;
  std::vector<uint64_t> id_, last_id_, graph_id_;  // of this step, of the last one, of the graph
  std::unique_ptr<CudaGraph> graph_;
  Buffer<uint8_t> block_;
  std::vector<uint8_t> parameters_;
  size_t wanted_ = 0;  // bytes that the block should have
};

}  // namespace foveal
