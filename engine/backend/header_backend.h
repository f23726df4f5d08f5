// A backend that computes nothing: models and encoders load on it from headers alone and run on it without weights, and
// it counts what weights and operations would take on the CPU.
#pragma once

#include "engine/backend/backend.h"

namespace foveal {

// Bytes of a tensor once packed for the CPU's kernels (cpu_weight.cpp).
int64_t packed_bytes(const TensorInfo& t);

// What the CPU backend keeps beside weights once it has run: each of its buffers is as large as the largest call
// needed.
struct CpuScratch {
  int64_t quantised = 0,
          packed = 0;  // activations of the largest product, in numbers, as each kind of kernels packs them
  int64_t pairs = 0;   // the same in bfloat16
  int64_t worker = 0;  // floats of one worker in attention
  int64_t parts = 0;   // floats of partial results of decode attention

  void attention(int64_t n_head_kv, int64_t group, int64_t head_dim, int64_t rows);  // of a text model
  void encoder(int64_t head_dim);
  void product(int64_t rows, int64_t cols, bool quantised);
  void bf16_product(int64_t rows, int64_t cols, bool split);
  void add(const CpuScratch& other);
  int64_t bytes(int threads) const;  // 0: as many as make_cpu_backend takes
};

class HeaderBackend : public Backend {
 public:
  CpuScratch scratch;                             // of the operations since it was last cleared
  int64_t most_quantised = 0, most_floating = 0;  // columns of the widest matrix of each kind
  int64_t weight_bytes = 0;  // packed matrices and float tables; tables of embeddings stay in the file's mapping

  std::string name() const override { return "none"; }
  WeightPtr load_matrix(std::span<const TensorInfo* const> parts) override;
  bool has_bf16() override;  // as make_cpu_backend's
  WeightPtr load_matrix_bf16(std::span<const TensorInfo* const> parts, bool split) override;
  WeightPtr load_table(const TensorInfo& t) override;
  Buffer<float> load_floats(const TensorInfo& t) override;  // zeros

  // Outputs are left as they are.
  void embed_rows(Mat, const Weight&, std::span<const int32_t>) override {}
  void matmul(Mat, const Weight& w, ConstMat x, const float*) override;
  void rms_norm(Mat, ConstMat, const float*, float) override {}
  void layer_norm(Mat, ConstMat, const float*, const float*, float) override {}
  void add(Mat, ConstMat, const float*) override {}
  void scale(Mat, float) override {}
  void act(Mat, Act) override {}
  void gated_act(Mat, ConstMat, ConstMat, Act) override {}
  void rope(Mat, int, ConstMat, RopeStyle) override {}
  void attend_prefill(Mat, ConstMat, std::span<const KvHead>, int64_t, const int32_t*, const int32_t*, int64_t,
                      const AttendParams&) override {}
  void attend_ragged(Mat, ConstMat, std::span<const KvHead>, KvType, int64_t, const AttendParams&) override {}
  void attend_full(Mat, ConstMat q, ConstMat, ConstMat, int n_head, std::span<const int32_t>, float) override {
    scratch.encoder(q.cols / n_head);
  }
  void append_kv(std::span<const KvHead>, KvType, ConstMat, ConstMat, int64_t) override {}
  void gather_slots(KvHead, KvType, KvHead, KvType, std::span<const int32_t>, int64_t) override {}
  void window_attention(Mat, ConstMat, KvHead, KvType, std::span<const int64_t>, float, float) override {}
  void key_cosine(float*, double*, KvHead, KvType, int64_t) override {}
  void row_norm(float*, const void*, KvType, int64_t, int64_t) override {}
  void patch_rows(Mat, const float*, int64_t, int64_t, int64_t) override {}
  void merge_rows(Mat, ConstMat, std::span<const int32_t>, int64_t) override {}
  void weighted_rows(Mat, ConstMat, std::span<const int32_t>, std::span<const float>, int64_t, bool) override {}

 private:
  WeightPtr count(std::span<const TensorInfo* const> parts, int bf16_parts);
};

}  // namespace foveal
