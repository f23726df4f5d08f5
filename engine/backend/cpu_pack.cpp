// Weights as the panels of kernels/cpu/matmul.h, and read back: rows, whole tensors.
#include <algorithm>
#include <cstring>

#include "engine/backend/cpu_weight.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace foveal {

namespace {

int64_t row_bytes(const TensorInfo& t) {
  const TypeTraits& traits = traits_of(t.type);
  return t.cols() / traits.block_elements * traits.block_bytes;
}

// Packed weights are streamed whole for every token: large pages save most misses of the address tables.
Buffer<uint8_t> weight_buffer(int64_t bytes) {
  Buffer<uint8_t> buffer(static_cast<size_t>(bytes));
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const auto first = (reinterpret_cast<uintptr_t>(buffer.data()) + kPage - 1) / kPage * kPage;
  const auto last = (reinterpret_cast<uintptr_t>(buffer.data()) + buffer.size()) / kPage * kPage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: may be refused
#endif
  return buffer;
}

Floats float_form(TensorType type) {
  return type == TensorType::F16 ? kF16 : type == TensorType::BF16 ? kBF16 : kF32;
}

}  // namespace

void pack_one(const CpuWeight::Segment& s, int64_t panel, int64_t place) {
  const int64_t first = panel * kPanelRows, bytes = row_bytes(s.tensor);
  const uint8_t* rows = s.tensor.data + first * bytes;
  const int n = static_cast<int>(std::min(kPanelRows, s.n_rows - first));
  uint8_t* to = s.data.data() + place * s.layout.bytes;
  if (s.layout.affine.bits > 0) {
    pack_panel(s.tensor.type, rows, bytes, n, s.tensor.cols(), s.layout, to);
  } else {
    pack_float_panel(s.floats == kF32 ? 4 : 2, rows, bytes, n, s.tensor.cols(), to);
  }
}

void pack_all(const CpuWeight& w, ThreadPool& pool) {
  for (const auto& s : w.segments) pool.for_each(panels_of(s.n_rows), [&](int64_t p) { pack_one(s, p, p); });
  w.packed = true;
}

WeightPtr pack_weight(std::span<const TensorInfo* const> parts, FloatProducts floats) {
  auto w = std::make_unique<CpuWeight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* t : parts) {
    CpuWeight::Segment s;
    s.tensor = *t;
    s.first_row = w->rows;
    s.n_rows = t->rows();
    const AffineFormat f = affine_format(t->type);
    if (f.bits > 0) {
      s.layout = panel_layout(f, w->cols);
      w->quantised = true;
    } else {
      s.floats = float_form(t->type);
      s.layout.bytes = w->cols * kPanelRows * (s.floats == kF32 ? 4 : 2);
      s.pairs = floats != FloatProducts::exact;
      w->split = floats == FloatProducts::bf16x3;
      (s.pairs ? w->paired : w->floating) = true;
    }
    s.data = weight_buffer(panels_of(s.n_rows) * s.layout.bytes);
    w->rows += s.n_rows;
    w->bytes += s.data.bytes();
    w->segments.push_back(std::move(s));
  }
  return w;
}

WeightPtr table_weight(const TensorInfo& t) {
  auto w = std::make_unique<CpuWeight>();
  w->table = t;
  w->rows = t.rows();
  w->cols = t.cols();
  return w;
}

Buffer<float> dequantize_tensor(const TensorInfo& t) {
  Buffer<float> out(static_cast<size_t>(t.rows() * t.cols()));
  for (int64_t r = 0; r < t.rows(); ++r)
    dequantize_row(t.type, t.data + r * row_bytes(t), out.data() + r * t.cols(), t.cols());
  return out;
}

void cpu_embed_rows(ThreadPool& pool, Mat out, const CpuWeight& w, std::span<const int32_t> ids) {
  const auto one = [&](int64_t i) {
    dequantize_row(w.table.type, w.table.data + ids[static_cast<size_t>(i)] * row_bytes(w.table), out.row(i), w.cols);
  };
  pool.for_each(static_cast<int64_t>(ids.size()), one);
}

}  // namespace foveal
