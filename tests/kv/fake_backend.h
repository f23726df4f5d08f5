// A backend for tests of the KV code: rows are moved and measured in plain float64 loops, anything else throws.
#pragma once

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "engine/backend/backend.h"

namespace foveal {

class FakeBackend : public Backend {
  [[noreturn]] static void no() { throw std::logic_error("not an operation of the KV code"); }

 public:
  std::string name() const override { return "fake"; }
  WeightPtr load_matrix(std::span<const TensorInfo* const>) override { no(); }
  WeightPtr load_table(const TensorInfo&) override { no(); }
  Buffer<float> load_floats(const TensorInfo&) override { no(); }
  void embed_rows(Mat, const Weight&, std::span<const int32_t>) override { no(); }
  void matmul(Mat, const Weight&, ConstMat, const float*) override { no(); }
  void rms_norm(Mat, ConstMat, const float*, float) override { no(); }
  void layer_norm(Mat, ConstMat, const float*, const float*, float) override { no(); }
  void add(Mat, ConstMat, const float*) override { no(); }
  void scale(Mat, float) override { no(); }
  void act(Mat, Act) override { no(); }
  void gated_act(Mat, ConstMat, ConstMat, Act) override { no(); }
  void rope(Mat, int, ConstMat, RopeStyle) override { no(); }
  void attend_prefill(Mat, ConstMat, std::span<const KvHead>, int64_t, const int32_t*, const int32_t*, int64_t,
                      const AttendParams&) override {
    no();
  }
  void attend_ragged(Mat, ConstMat, std::span<const KvHead>, KvType, int64_t, const AttendParams&) override { no(); }
  void attend_full(Mat, ConstMat, ConstMat, ConstMat, int, std::span<const int32_t>, float) override { no(); }
  void patch_rows(Mat, const float*, int64_t, int64_t, int64_t) override { no(); }
  void merge_rows(Mat, ConstMat, std::span<const int32_t>, int64_t) override { no(); }
  void weighted_rows(Mat, ConstMat, std::span<const int32_t>, std::span<const float>, int64_t, bool) override { no(); }

  // Rows are float32 here whatever the head count: the tests use KvType::F32.
  void append_kv(std::span<const KvHead> heads, KvType type, ConstMat k, ConstMat v, int64_t d) override {
    if (type != KvType::F32) no();
    for (size_t ih = 0; ih < heads.size(); ++ih)
      for (int64_t t = 0; t < k.rows; ++t) {
        const auto bytes = static_cast<size_t>(d) * 4;
        std::memcpy(row(heads[ih].k, heads[ih].len + t, d), k.row(t) + static_cast<int64_t>(ih) * d, bytes);
        std::memcpy(row(heads[ih].v, heads[ih].len + t, d), v.row(t) + static_cast<int64_t>(ih) * d, bytes);
      }
  }
  void gather_slots(KvHead dst, KvType to, KvHead src, KvType from, std::span<const int32_t> slots,
                    int64_t d) override {
    if (to != KvType::F32 || from != KvType::F32) no();
    for (size_t j = 0; j < slots.size(); ++j) {
      const auto at = static_cast<int64_t>(j);
      std::memmove(row(dst.k, at, d), row(src.k, slots[j], d), static_cast<size_t>(d) * 4);
      std::memmove(row(dst.v, at, d), row(src.v, slots[j], d), static_cast<size_t>(d) * 4);
    }
  }

  // The attention that a test prescribes per row, if any: the same for every query; else softmax(q k).
  std::vector<float> attention;
  void window_attention(Mat probs, ConstMat q, KvHead head, KvType, std::span<const int64_t> visible, float scale,
                        float) override {
    for (int64_t i = 0; i < q.rows; ++i) {
      const int64_t seen = visible[static_cast<size_t>(i) % visible.size()];
      std::vector<double> p(static_cast<size_t>(head.len), 0.0);
      double sum = 0;
      for (int64_t j = 0; j < seen; ++j) {
        double dot = 0;
        for (int64_t c = 0; c < q.cols; ++c) dot += static_cast<double>(q.row(i)[c]) * row(head.k, j, q.cols)[c];
        sum += p[static_cast<size_t>(j)] = std::exp(dot * static_cast<double>(scale));
      }
      for (int64_t j = 0; j < head.len; ++j)
        probs.row(i)[j] =
            attention.empty() ? static_cast<float>(p[static_cast<size_t>(j)] / sum) : attention[static_cast<size_t>(j)];
    }
  }
  void key_cosine(float* cosine, double* mean_norm2, KvHead head, KvType, int64_t d) override {
    std::vector<double> mean(static_cast<size_t>(d), 0.0);
    const auto unit = [&](int64_t i, int64_t c) {
      double n2 = 0;
      for (int64_t j = 0; j < d; ++j) n2 += static_cast<double>(row(head.k, i, d)[j]) * row(head.k, i, d)[j];
      return row(head.k, i, d)[c] / std::max(std::sqrt(n2), 1e-12);
    };
    for (int64_t i = 0; i < head.len; ++i)
      for (int64_t c = 0; c < d; ++c) mean[static_cast<size_t>(c)] += unit(i, c) / static_cast<double>(head.len);
    *mean_norm2 = 0;
    for (const double m : mean) *mean_norm2 += m * m;
    for (int64_t i = 0; i < head.len; ++i) {
      double dot = 0;
      for (int64_t c = 0; c < d; ++c) dot += unit(i, c) * mean[static_cast<size_t>(c)];
      cosine[i] = static_cast<float>(dot);
    }
  }
  void row_norm(float* norms, const void* rows, KvType, int64_t n, int64_t d) override {
    for (int64_t i = 0; i < n; ++i) {
      double n2 = 0;
      for (int64_t c = 0; c < d; ++c) n2 += static_cast<double>(row(rows, i, d)[c]) * row(rows, i, d)[c];
      norms[i] = static_cast<float>(std::sqrt(n2));
    }
  }

 private:
  static float* row(void* rows, int64_t i, int64_t d) { return static_cast<float*>(rows) + i * d; }
  static const float* row(const void* rows, int64_t i, int64_t d) { return static_cast<const float*>(rows) + i * d; }
};

}  // namespace foveal
