// Layers through two slots of the GPU's memory: the file's blocks go piece by piece through page-locked host memory, on
// a stream beside the work, so that one layer is copied while another is computed.
#pragma once

#include <map>
#include <vector>

#include "engine/backend/cuda_device.h"

namespace foveal {

class CudaWeightStream final : public WeightStream {
 public:
  CudaWeightStream(CudaDevice& device, size_t slot_bytes, const cuda::Codebooks* codebooks);
  ~CudaWeightStream() override;
  WeightPtr load_matrix(int il, std::span<const TensorInfo* const> parts) override;
  void begin() override;
  void start(int il) override;
  void need(int il) override;

 private:
  struct Part {  // of a layer, at its place in the slot
    const uint8_t* from;
    size_t at, bytes;
  };
  void copy_part(uint8_t* to, const uint8_t* from, size_t bytes);

  CudaDevice& device_;
  const cuda::Codebooks* codebooks_;
  Buffer<uint8_t> slots_[2];
  std::map<int, std::vector<Part>> layers_;
  uint8_t* pieces_[2] = {};  // page-locked; nullptr: copies read the file's mapping
  int next_piece_ = 0;
};

}  // namespace foveal
