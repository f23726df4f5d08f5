// A backend that computes nothing: models and encoders load on it from headers alone, and it counts what their weights
// would take on the CPU.
#pragma once

#include "engine/backend/backend.h"

namespace foveal {

// Bytes of a tensor once packed for the CPU's kernels (cpu_weight.cpp).
int64_t packed_bytes(const TensorInfo& t);

class HeaderBackend final : public Backend {
 public:
  int64_t weight_bytes = 0;  // packed matrices and float tables; tables of embeddings stay in the file's mapping

  std::string name() const override { return "none"; }
  WeightPtr load_matrix(std::span<const TensorInfo* const> parts) override;
  WeightPtr load_table(const TensorInfo& t) override;
  Buffer<float> load_floats(const TensorInfo& t) override;  // zeros

  // State errors: there is nothing to compute with.
  void embed_rows(Mat, const Weight&, std::span<const int32_t>) override { refuse(); }
  void matmul(Mat, const Weight&, ConstMat, const float*) override { refuse(); }
  void rms_norm(Mat, ConstMat, const float*, float) override { refuse(); }
  void layer_norm(Mat, ConstMat, const float*, const float*, float) override { refuse(); }
  void add(Mat, ConstMat, const float*) override { refuse(); }
  void scale(Mat, float) override { refuse(); }
  void act(Mat, Act) override { refuse(); }
  void gated_act(Mat, ConstMat, ConstMat, Act) override { refuse(); }
  void rope(Mat, int, ConstMat, RopeStyle) override { refuse(); }
  void attend_prefill(Mat, ConstMat, std::span<const KvHead>, int64_t, const int32_t*, const int32_t*, int64_t,
                      const AttendParams&) override {
    refuse();
  }
  void attend_ragged(Mat, ConstMat, std::span<const KvHead>, KvType, int64_t, const AttendParams&) override {
    refuse();
  }
  void attend_full(Mat, ConstMat, ConstMat, ConstMat, int, std::span<const int32_t>, float) override { refuse(); }
  void append_kv(std::span<const KvHead>, KvType, ConstMat, ConstMat, int64_t) override { refuse(); }
  void gather_slots(KvHead, KvType, KvHead, KvType, std::span<const int32_t>, int64_t) override { refuse(); }
  void window_attention(Mat, ConstMat, KvHead, KvType, std::span<const int64_t>, float, float) override { refuse(); }
  void key_cosine(float*, double*, KvHead, KvType, int64_t) override { refuse(); }
  void row_norm(float*, const void*, KvType, int64_t, int64_t) override { refuse(); }
  void patch_rows(Mat, const float*, int64_t, int64_t, int64_t) override { refuse(); }
  void merge_rows(Mat, ConstMat, std::span<const int32_t>, int64_t) override { refuse(); }

 private:
  [[noreturn]] static void refuse();
};

}  // namespace foveal
