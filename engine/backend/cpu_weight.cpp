// Plain reference path: weights as float32.
#include "engine/backend/cpu_weight.h"

#include <cstring>

#include "kernels/cpu/scalar/half.h"

namespace foveal {

static void row_to_float(TensorType type, const uint8_t* s, float* d, int64_t n) {
  using scalar::half_to_float;
  const auto h = [](const uint8_t* p) {
    uint16_t v;
    std::memcpy(&v, p, 2);
    return v;
  };
  switch (type) {
    case TensorType::F32: std::memcpy(d, s, static_cast<size_t>(n) * 4); return;
    case TensorType::F16:
      for (int64_t i = 0; i < n; ++i) d[i] = half_to_float(h(s + 2 * i));
      return;
    case TensorType::Q8_0:
      for (int64_t b = 0; b < n / 32; ++b, s += 34)
        for (int i = 0; i < 32; ++i) d[b * 32 + i] = half_to_float(h(s)) * static_cast<float>(static_cast<int8_t>(s[2 + i]));
      return;
    case TensorType::Q4_1:
      for (int64_t b = 0; b < n / 32; ++b, s += 20)
        for (int i = 0; i < 16; ++i) {
          d[b * 32 + i] = half_to_float(h(s)) * static_cast<float>(s[4 + i] & 15) + half_to_float(h(s + 2));
          d[b * 32 + i + 16] = half_to_float(h(s)) * static_cast<float>(s[4 + i] >> 4) + half_to_float(h(s + 2));
        }
      return;
    default: fail(ErrorCode::unsupported, "reference path: tensor type ", traits_of(type).name);
  }
}

Buffer<float> dequantize_tensor(const TensorInfo& t) {
  Buffer<float> out(static_cast<size_t>(t.rows() * t.cols()));
  const int64_t row_bytes = static_cast<int64_t>(t.bytes) / t.rows();
  for (int64_t r = 0; r < t.rows(); ++r) row_to_float(t.type, t.data + r * row_bytes, out.data() + r * t.cols(), t.cols());
  return out;
}

WeightPtr pack_weight(std::span<const TensorInfo* const> parts, Isa, ThreadPool&) {
  auto w = std::make_unique<CpuWeight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* p : parts) w->rows += p->rows();
  w->values = Buffer<float>(static_cast<size_t>(w->rows * w->cols));
  float* at = w->values.data();
  for (const TensorInfo* p : parts) {
    const Buffer<float> one = dequantize_tensor(*p);
    std::memcpy(at, one.data(), one.bytes());
    at += one.size();
  }
  w->bytes = w->values.bytes();
  return w;
}

WeightPtr table_weight(const TensorInfo& t) {
  auto w = std::make_unique<CpuWeight>();
  w->table_info = t;
  w->rows = t.rows();
  w->cols = t.cols();
  return w;
}

void cpu_embed_rows(ThreadPool&, Mat out, const CpuWeight& w, std::span<const int32_t> ids) {
  const TensorInfo& t = w.table_info;
  const int64_t row_bytes = static_cast<int64_t>(t.bytes) / t.rows();
  for (size_t i = 0; i < ids.size(); ++i) row_to_float(t.type, t.data + ids[i] * row_bytes, out.row(static_cast<int64_t>(i)), t.cols());
}

void cpu_matmul(ThreadPool& pool, Mat out, const CpuWeight& w, ConstMat x, const float* bias, MatmulScratch&) {
  pool.for_each((w.rows + 15) / 16, [&](int64_t block) {
    for (int64_t o = block * 16; o < std::min(w.rows, block * 16 + 16); ++o) {
      const float* row = w.values.data() + o * w.cols;
      for (int64_t t = 0; t < x.rows; ++t) {
        float sum[8] = {};
        const float* a = x.row(t);
        int64_t c = 0;
        for (; c + 8 <= w.cols; c += 8)
          for (int k = 0; k < 8; ++k) sum[k] += row[c + k] * a[c + k];
        float s = bias ? bias[o] : 0.0f;
        for (float v : sum) s += v;
        for (; c < w.cols; ++c) s += row[c] * a[c];
        out.row(t)[o] = s;
      }
    }
  });
}

}  // namespace foveal
