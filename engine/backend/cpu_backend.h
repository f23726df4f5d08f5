// The CPU's operations: cuts each into pieces that don't depend on the number of threads and hands them to the table
// of kernels chosen at run time. Matrix products live in cpu_weight.h.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu_weight.h"
#include "engine/core/thread_pool.h"
#include "kernels/cpu/ops.h"

namespace foveal {

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, Isa isa);
  std::string name() const override;

  WeightPtr load_matrix(std::span<const TensorInfo* const> parts) override;
  bool has_bf16() override { return amx_ != nullptr; }
  WeightPtr load_matrix_bf16(std::span<const TensorInfo* const> parts, bool split) override;
  WeightPtr load_table(const TensorInfo& t) override;
  Buffer<float> load_floats(const TensorInfo& t) override;

  void embed_rows(Mat out, const Weight& w, std::span<const int32_t> ids) override;
  void matmul(Mat out, const Weight& w, ConstMat x, const float* bias) override;
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

  void for_each(int64_t n, const std::function<void(int64_t)>& fn) override;
  void window_attention(Mat probs, ConstMat q, KvHead head, KvType type, std::span<const int64_t> visible, float scale,
                        float softcap) override;
  void key_cosine(float* cosine, double* mean_norm2, KvHead head, KvType type, int64_t head_dim) override;
  void row_norm(float* norms, const void* rows, KvType type, int64_t n, int64_t head_dim) override;

  void patch_rows(Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) override;
  void merge_rows(Mat out, ConstMat x, std::span<const int32_t> index, int64_t m) override;
  void weighted_rows(Mat out, ConstMat x, std::span<const int32_t> index, std::span<const float> weight, int64_t m,
                     bool add) override;

 private:
  // fn(row) for every row: on the caller when there is little to do, else on the pool.
  template <class Fn>
  void for_rows(int64_t n, int64_t row_elements, Fn&& fn);
  // fn(item, worker's scratch of `floats` floats) for every item, on the pool when `parallel`.
  template <class Fn>
  void for_items(int64_t n, int64_t floats, bool parallel, Fn&& fn);
  template <class Fn>
  void for_neighbours(int64_t n, int64_t floats, bool parallel, Fn&& fn);
  // Rows [first, first + n) of a head's K or V as float32: in place, or converted into `room`.
  const float* float_rows(const void* rows, KvType type, int64_t first, int64_t n, int64_t head_dim, float* room) const;
  float* reserve_parts(size_t floats);

  ThreadPool pool_;
  Isa isa_;
  const CpuOps& ops_;
  const MatmulKernels& kernels_;
  const AmxKernels* amx_;
  struct alignas(64) Cursor {
    std::atomic<int64_t> next{0};
  };
  std::vector<Cursor> cursors_;  // one a worker: its next item
  std::mutex busy_;              // the scratch below has one user at a time
  MatmulScratch matmul_scratch_;
  struct Scratch {
    Buffer<float> items;  // one share per worker
    Buffer<float> parts;  // partial results of decode attention
  };
  Scratch scratch_;
  std::vector<Scratch> own_;                     // one a worker, inside of for_each
  static inline thread_local Scratch* alone_{};  // on a worker inside of for_each: there it works by itself
  std::unique_lock<std::mutex> use() { return alone_ ? std::unique_lock<std::mutex>() : std::unique_lock(busy_); }
};

}  // namespace foveal
