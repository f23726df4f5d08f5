// Calls are compared word by word, so a graph that is replayed is the one that would be captured.
#include "engine/backend/cuda_step.h"

#include <algorithm>

#include "engine/core/error.h"

namespace foveal {

void CudaStep::begin() {
  calls_.clear();
  id_.clear();
  parameters_.clear();
  if (block_.size() >= wanted_) return;
  try {
    Buffer<uint8_t> larger(wanted_, &device_);
    graph_.reset();  // reads the old one
    block_ = std::move(larger);
  } catch (const Error& e) {  // no room: steps go on call by call
    if (e.code() != ErrorCode::out_of_memory) throw;
    wanted_ = 0;
  }
}

const void* CudaStep::parameter(const void* host, size_t bytes) {
  const size_t at = (parameters_.size() + 15) / 16 * 16;
  if (at + bytes > block_.size()) {
    wanted_ = std::max(2 * block_.size(), at + bytes);
    return nullptr;
  }
  parameters_.resize(at + bytes);
  std::memcpy(parameters_.data() + at, host, bytes);
  return block_.data() + at;
}

void CudaStep::copy_parameters() {
  if (!parameters_.empty()) device_.copy_in(block_.data(), parameters_.data(), parameters_.size());
}

void CudaStep::run_calls() {
  copy_parameters();
  for (const Call& call : calls_) {
    call.launch(device_.begin());
    device_.end(call.operation);
  }
}

void CudaStep::run() {
  const bool known = graph_ && id_ == graph_id_;
  if (!known && id_ != last_id_) {
    run_calls();
    last_id_.swap(id_);
    return;
  }
  if (!known) {
    graph_.reset();
    device_.begin_capture();
    try {
      for (const Call& call : calls_) {
        call.launch(device_.begin());
        device_.end(call.operation);
      }
    } catch (...) {
      device_.drop_capture();
      throw;
    }
    graph_ = device_.end_capture();
    graph_id_ = id_;
  }
  copy_parameters();
  device_.launch(*graph_);
  last_id_.swap(id_);
}

}  // namespace foveal
