// The encoder is loaded and run on a backend that computes nothing and counts what it would hold.
#include "engine/runtime/vision_room.h"

#include <cstdlib>
#include <map>

#include "engine/backend/header_backend.h"

namespace foveal {
namespace {

// Stands for the GPU's; what it hands out is never read or written but by load_floats.
class CountedMemory final : public Memory {
 public:
  void* allocate(size_t bytes) override {
    void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) throw std::bad_alloc();
    sizes_[p] = bytes;
    live += bytes;
    most = std::max(most, live);
    return p;
  }
  void release(void* p) noexcept override {
    const auto it = sizes_.find(p);
    live -= it->second;
    sizes_.erase(it);
    std::free(p);
  }
  uint64_t live = 0, most = 0;  // bytes

 private:
  std::map<void*, size_t> sizes_;
};

class CountedGpu final : public HeaderBackend {
 public:
  Memory* memory() override { return &counted; }
  bool has_bf16() override { return false; }
  WeightPtr load_matrix(std::span<const TensorInfo* const> parts) override {
    for (const TensorInfo* t : parts) matrices += t->bytes;
    return HeaderBackend::load_matrix(parts);
  }
  Buffer<float> load_floats(const TensorInfo& t) override {
    Buffer<float> zeros(static_cast<size_t>(t.rows() * t.cols()), &counted);
    std::fill_n(zeros.data(), zeros.size(), 0.0f);
    return zeros;
  }
  // Halves in rows of whole steps, and a float a row (kernels/cuda/matmul_inputs.cu); the room grows by a quarter.
  void matmul(Mat, const Weight& w, ConstMat x, const float*) override {
    stage(static_cast<uint64_t>(x.rows * ((w.cols + 63) / 64 * 128 + 4)));
  }
  void patch_rows(Mat, const float*, int64_t height, int64_t width, int64_t) override {
    stage(static_cast<uint64_t>(12 * height * width));
  }
  CountedMemory counted;
  uint64_t matrices = 0, staged = 0;

 private:
  void stage(uint64_t bytes) { staged = std::max(staged, bytes + bytes / 4); }
};

}  // namespace

VisionRoom vision_room(const std::shared_ptr<const Gguf>& mmproj, const Gguf& text, const VisionOptions& options,
                       int side) {
  CountedGpu gpu;
  const auto vision = load_vision(mmproj, text, gpu, options);
  const uint64_t loaded = gpu.counted.most = gpu.counted.live;
  const ImagePlan plan = vision->plan(side, side);
  const bool whole = plan.grid_cols > 0;  // one tile of any size, or squares of the encoder's own
  const int tile = static_cast<int>(mmproj->find_int("clip.vision.image_size", 1, kMaxImageSide).value_or(0));
  Tile empty;
  empty.width = whole ? plan.resized_width : tile;
  empty.height = whole ? plan.resized_height : tile;
  vision->encode(std::vector<Tile>(static_cast<size_t>(plan.n_tiles), empty), plan, nullptr);
  return {loaded + gpu.matrices, gpu.counted.most - loaded, gpu.staged};
}

}  // namespace foveal
