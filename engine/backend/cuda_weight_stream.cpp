// What is copied into a slot waits for the layer that was computed from it, and the next layer waits for the copies.
#include "engine/backend/cuda_weight_stream.h"

#include <algorithm>
#include <cstring>

#include "engine/backend/cuda_backend.h"
#include "engine/core/error.h"

namespace foveal {
namespace {

constexpr size_t kPieceBytes = 16u << 20, kAlign = 256;

CudaMark free_mark(int il) {
  return il % 2 == 0 ? CudaMark::slot_free_0 : CudaMark::slot_free_1;
}
CudaMark full_mark(int il) {
  return il % 2 == 0 ? CudaMark::slot_full_0 : CudaMark::slot_full_1;
}

}  // namespace

CudaWeightStream::CudaWeightStream(CudaDevice& device, size_t slot_bytes, const cuda::Codebooks* codebooks)
    : device_(device), codebooks_(codebooks) {
  for (Buffer<uint8_t>& slot : slots_) slot = Buffer<uint8_t>(slot_bytes, &device_);
  for (uint8_t*& piece : pieces_) piece = static_cast<uint8_t*>(device_.allocate_locked(kPieceBytes));
}

CudaWeightStream::~CudaWeightStream() {
  for (uint8_t* piece : pieces_)
    if (piece) device_.release_locked(piece);
}

WeightPtr CudaWeightStream::load_matrix(int il, std::span<const TensorInfo* const> parts) {
  std::vector<Part>& layer = layers_[il];
  Buffer<uint8_t>& slot = slots_[il % 2];
  auto w = std::make_unique<CudaWeight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* t : parts) {
    const size_t at = layer.empty() ? 0 : (layer.back().at + layer.back().bytes + kAlign - 1) / kAlign * kAlign;
    const auto bytes = static_cast<size_t>(t->bytes);
    if (at + bytes > slot.size())
      fail(ErrorCode::state, "weight stream: layer ", il, " takes more than its slot of ", slot.size(), " bytes");
    layer.push_back({t->data, at, bytes});
    w->parts.push_back({slot.data() + at, t->type, t->rows(), t->cols(), codebooks_});
    w->rows += t->rows();
  }
  return w;
}

void CudaWeightStream::begin() {
  device_.mark(CudaMark::slot_free_0, false);
  device_.mark(CudaMark::slot_free_1, false);
}

void CudaWeightStream::copy_part(uint8_t* to, const uint8_t* from, size_t bytes) {
  if (!pieces_[0] || !pieces_[1]) return device_.copy_in_beside(to, from, bytes);
  for (size_t done = 0; done < bytes;) {
    const size_t n = std::min(bytes - done, kPieceBytes);
    const CudaMark read = next_piece_ == 0 ? CudaMark::piece_read_0 : CudaMark::piece_read_1;
    device_.wait_on_host(read);
    std::memcpy(pieces_[next_piece_], from + done, n);
    device_.copy_in_beside(to + done, pieces_[next_piece_], n);
    device_.mark(read, true);
    next_piece_ = 1 - next_piece_;
    done += n;
  }
}

void CudaWeightStream::start(int il) {
  device_.wait(free_mark(il), true);
  for (const Part& part : layers_.at(il)) copy_part(slots_[il % 2].data() + part.at, part.from, part.bytes);
  device_.mark(full_mark(il), true);
}

void CudaWeightStream::need(int il) {
  device_.mark(free_mark(il + 1), false);  // the layer before this one is all enqueued
  device_.wait(full_mark(il), false);
}

}  // namespace foveal
