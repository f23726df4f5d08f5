// The operations on one NVIDIA GPU: checks, staging of small host arrays, and the launchers of kernels/cuda/launch.h.
#pragma once

#include <vector>

#include "engine/backend/cuda_step.h"

namespace foveal {

class CudaWeight final : public Weight {
 public:
  std::vector<Buffer<uint8_t>> blocks;  // empty: the parts are in a slot of a weight stream
  std::vector<cuda::WeightPart> parts;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<CudaDevice> device);
  std::string name() const override { return device_->name(); }
  Memory* memory() override { return device_.get(); }
  uint64_t free_bytes() override { return device_->free_bytes(); }
  void copy_in(void* to, const void* host, size_t bytes) override;
  void copy_out(void* host, const void* from, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;  // may not overlap
  std::unique_ptr<StepGraph> make_step() override;
  void begin_step(StepGraph& step) override;
  void end_step() override;
  void drop_step() noexcept override { step_ = nullptr; }

  // The tensors' blocks as they are in the file; `bytes` counts them.
  WeightPtr load_matrix(std::span<const TensorInfo* const> parts) override;
  WeightPtr load_table(const TensorInfo& t) override;
  Buffer<float> load_floats(const TensorInfo& t) override;
  std::unique_ptr<WeightStream> make_weight_stream(size_t slot_bytes) override;

  void embed_rows(Mat out, const Weight& w, std::span<const int32_t> ids) override;
  void matmul(Mat out, const Weight& w, ConstMat x, const float* bias) override;
  void matmul_out(Mat out, const Weight& w, ConstMat x, const float* bias) override;
  void rms_norm(Mat out, ConstMat x, const float* w, float eps) override;
  void layer_norm(Mat out, ConstMat x, const float* w, const float* b, float eps) override;
  void add(Mat x, ConstMat y, const float* scale) override;
  void scale(Mat x, float s) override;
  void act(Mat x, Act kind) override;
  void gated_act(Mat out, ConstMat gate, ConstMat up, Act kind) override;
  void rope(Mat x, int n_head, ConstMat cs, RopeStyle style) override;

  void attend_prefill(Mat out, ConstMat q, std::span<const KvHead> heads, int64_t n_new, const int32_t* lo,
                      const int32_t* hi, int64_t head_dim, const AttendParams& p) override;
  void attend_ragged(Mat out, ConstMat q, std::span<const KvHead> heads, KvType type, int64_t head_dim,
                     const AttendParams& p) override;
  void attend_full(Mat out, ConstMat q, ConstMat k, ConstMat v, int n_head, std::span<const int32_t> segments,
                   float scale) override;

  void append_kv(std::span<const KvHead> heads, KvType type, ConstMat k, ConstMat v, int64_t head_dim) override;
  void gather_slots(KvHead dst, KvType dst_type, KvHead src, KvType src_type, std::span<const int32_t> slots,
                    int64_t head_dim) override;
  void hadamard(Mat out, ConstMat x, int64_t head_dim) override;

  void window_attention(Mat probs, ConstMat q, KvHead head, KvType type, std::span<const int64_t> visible, float scale,
                        float softcap) override;
  void key_cosine(float* cosine, double* mean_norm2, KvHead head, KvType type, int64_t head_dim) override;
  void row_norm(float* norms, const void* rows, KvType type, int64_t n, int64_t head_dim) override;

  void patch_rows(Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) override;
  void merge_rows(Mat out, ConstMat x, std::span<const int32_t> index, int64_t m) override;
  void weighted_rows(Mat out, ConstMat x, std::span<const int32_t> index, std::span<const float> weight, int64_t m,
                     bool add) override;

 private:
  // Runs launch(stream) on the device and throws what it reports.
  template <class Launch>
  void run(const char* operation, Launch&& launch);
  // The same, or what a step waits with: launch holds copies, id all that tells the call from others.
  template <class Launch, class... Id>
  void run_in_step(const char* operation, Launch launch, const Id&... id);
  // The step's calls so far run one by one, and so does what comes after.
  void leave_step();
  // Device memory of at least `bytes` bytes for the next launch; grows.
  void* staged(Buffer<uint8_t>& room, size_t bytes);
  // A host array in device memory, for the next launch.
  template <class T>
  T* upload(Buffer<uint8_t>& room, std::span<const T> values);
  const cuda::KvHead* upload_heads(std::span<const KvHead> heads);
  void check_head(int64_t head_dim, KvType type) const;

  std::unique_ptr<CudaDevice> device_;
  CudaStep* step_ = nullptr;                                              // while its calls are gathered
  Buffer<uint8_t> codebooks_, inputs_, heads_, first_, second_, result_;  // by what they hold for a launch
};

}  // namespace foveal
