// A backend that computes nothing and checks everything: shapes, index lists and lengths of each operation, and that
// the views really are memory. An encoder or model built from a hostile file must never call it wrongly.
#pragma once

#include <algorithm>

#include "engine/backend/backend.h"
#include "kernels/quant/types.h"
#include "tests/fuzz/random.h"

namespace fuzz {

using foveal::ConstMat;
using foveal::KvHead;
using foveal::KvType;
using foveal::Mat;

class CheckingBackend : public foveal::Backend {
 public:
  std::string name() const override { return "checking"; }

  foveal::WeightPtr load_matrix(std::span<const foveal::TensorInfo* const> parts) override {
    auto weight = std::make_unique<foveal::Weight>();
    FUZZ_REQUIRE(!parts.empty());
    weight->cols = parts[0]->cols();
    for (const foveal::TensorInfo* t : parts) {
      FUZZ_REQUIRE(t->cols() == weight->cols);
      weight->rows += t->rows();
      touch_bytes(*t);
    }
    return weight;
  }
  foveal::WeightPtr load_table(const foveal::TensorInfo& t) override { return Backend::load_matrix(t); }
  foveal::Buffer<float> load_floats(const foveal::TensorInfo& t) override {
    touch_bytes(t);
    foveal::Buffer<float> out(static_cast<size_t>(t.cols() * t.rows()));
    std::fill_n(out.data(), out.size(), 0.5f);
    return out;
  }

  void embed_rows(Mat out, const foveal::Weight& w, std::span<const int32_t> ids) override {
    FUZZ_REQUIRE(out.cols == w.cols && out.rows == static_cast<int64_t>(ids.size()));
    for (const int32_t id : ids) FUZZ_REQUIRE(id >= 0 && id < w.rows);
    write(out);
  }
  void matmul(Mat out, const foveal::Weight& w, ConstMat x, const float* bias) override {
    FUZZ_REQUIRE(x.cols == w.cols && out.cols == w.rows && x.rows == out.rows);
    read(x);
    if (bias) read(ConstMat(bias, 1, w.rows));
    write(out);
  }
  void rms_norm(Mat out, ConstMat x, const float* w, float) override { norm(out, x, w, nullptr); }
  void layer_norm(Mat out, ConstMat x, const float* w, const float* b, float) override { norm(out, x, w, b); }
  void add(Mat x, ConstMat y, const float* scale) override {
    same(x, y);
    if (scale) read(ConstMat(scale, 1, x.cols));
    read(y);
    write(x);
  }
  void scale(Mat x, float) override { write(x); }
  void act(Mat x, foveal::Act) override { write(x); }
  void gated_act(Mat out, ConstMat gate, ConstMat up, foveal::Act) override {
    same(out, gate);
    same(out, up);
    read(gate);
    read(up);
    write(out);
  }
  void rope(Mat x, int n_head, ConstMat cs, foveal::RopeStyle) override {
    FUZZ_REQUIRE(n_head > 0 && x.cols % n_head == 0 && cs.rows == x.rows);
    FUZZ_REQUIRE(cs.cols % 2 == 0 && cs.cols <= x.cols / n_head);
    read(cs);
    write(x);
  }
  void attend_prefill(Mat, ConstMat, std::span<const KvHead>, int64_t, const int32_t*, const int32_t*, int64_t,
                      const foveal::AttendParams&) override {
    FUZZ_REQUIRE(false);  // no encoder uses the cache
  }
  void attend_ragged(Mat, ConstMat, std::span<const KvHead>, KvType, int64_t, const foveal::AttendParams&) override {
    FUZZ_REQUIRE(false);
  }
  void attend_full(Mat out, ConstMat q, ConstMat k, ConstMat v, int n_head, std::span<const int32_t> segments,
                   float) override {
    same(out, q);
    same(q, k);
    same(q, v);
    FUZZ_REQUIRE(n_head > 0 && q.cols % n_head == 0 && segments.size() >= 2);
    FUZZ_REQUIRE(segments.front() == 0 && segments.back() == q.rows);
    FUZZ_REQUIRE(std::is_sorted(segments.begin(), segments.end()));
    for (const ConstMat m : {q, k, v}) read(m);
    write(out);
  }
  void append_kv(std::span<const KvHead>, KvType, ConstMat, ConstMat, int64_t) override { FUZZ_REQUIRE(false); }
  void gather_slots(KvHead, KvType, KvHead, KvType, std::span<const int32_t>, int64_t) override { FUZZ_REQUIRE(false); }
  void window_attention(Mat, ConstMat, KvHead, KvType, std::span<const int64_t>, float, float) override {
    FUZZ_REQUIRE(false);
  }
  void key_cosine(float*, double*, KvHead, KvType, int64_t) override { FUZZ_REQUIRE(false); }
  void row_norm(float*, const void*, KvType, int64_t, int64_t) override { FUZZ_REQUIRE(false); }
  void patch_rows(Mat out, const float* pixels, int64_t height, int64_t width, int64_t patch) override {
    FUZZ_REQUIRE(patch > 0 && height >= patch && width >= patch);
    FUZZ_REQUIRE(out.rows == (height / patch) * (width / patch) && out.cols == 3 * patch * patch);
    read(ConstMat(pixels, 3, height * width));
    write(out);
  }
  void merge_rows(Mat out, ConstMat x, std::span<const int32_t> index, int64_t m) override {
    FUZZ_REQUIRE(m > 0 && out.rows * m == static_cast<int64_t>(index.size()) && out.cols == m * x.cols);
    for (const int32_t i : index) FUZZ_REQUIRE(i >= 0 && i < x.rows);
    read(x);
    write(out);
  }
  void weighted_rows(Mat out, ConstMat x, std::span<const int32_t> index, std::span<const float> weight, int64_t m,
                     bool add) override {
    FUZZ_REQUIRE(m > 0 && out.rows * m == static_cast<int64_t>(index.size()) && out.cols == x.cols);
    FUZZ_REQUIRE(weight.size() == index.size());
    for (const int32_t i : index) FUZZ_REQUIRE(i >= 0 && i < x.rows);
    read(x);
    if (add) read(out);
    write(out);
  }

 private:
  static void same(ConstMat a, ConstMat b) { FUZZ_REQUIRE(a.rows == b.rows && a.cols == b.cols); }
  static void touch_bytes(const foveal::TensorInfo& t) {
    const auto& traits = foveal::traits_of(t.type);
    FUZZ_REQUIRE(t.cols() % traits.block_elements == 0);
    const int64_t bytes = t.cols() / traits.block_elements * traits.block_bytes * t.rows();
    FUZZ_REQUIRE(bytes == static_cast<int64_t>(t.bytes));
    volatile uint8_t sink = 0;
    if (bytes > 0) sink = static_cast<uint8_t>(t.data[0] ^ t.data[bytes - 1]);
    (void)sink;
  }
  // First and last element of every row: a sanitizer sees a row that isn't there.
  static void read(ConstMat m) {
    volatile float sink = 0;
    for (int64_t i = 0; m.cols > 0 && i < m.rows; ++i) sink = m.row(i)[0] + m.row(i)[m.cols - 1];
    (void)sink;
  }
  static void write(Mat m) {
    for (int64_t i = 0; i < m.rows; ++i) std::fill_n(m.row(i), m.cols, 0.25f);
  }
  void norm(Mat out, ConstMat x, const float* w, const float* b) {
    same(out, x);
    if (w) read(ConstMat(w, 1, x.cols));
    if (b) read(ConstMat(b, 1, x.cols));
    read(x);
    write(out);
  }
};

}  // namespace fuzz
