// Weights packed at load into the panels of kernels/cpu/matmul.h, and read back: rows, whole tensors.
#include <algorithm>
#include <cstring>

#include "engine/backend/cpu_weight.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels/cpu/scalar/half.h"

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

// What a quantised tensor needs before anything of it is read.
void place_affine(const TensorInfo& t, const AffineFormat& f, CpuWeight::Segment& s) {
  s.layout = panel_layout(f, t.cols());
  s.tensor = t;
  s.data = weight_buffer(panels_of(t.rows()) * s.layout.bytes);
}

// 16-bit float types keep their bits.
Floats float_form(TensorType type) {
  return type == TensorType::F16 ? kF16 : type == TensorType::BF16 ? kBF16 : kF32;
}

// One row's values, 16 apart. `room` [cols] for types that have to be dequantised.
void put_floats(const TensorInfo& t, int64_t r, Floats form, uint8_t* panel, float* room) {
  const uint8_t* row = t.data + r * row_bytes(t);
  const int64_t cols = t.cols(), lane = r % kPanelRows;
  if (form != kF32) {
    for (int64_t k = 0; k < cols; ++k) std::memcpy(panel + (k * kPanelRows + lane) * 2, row + 2 * k, 2);
    return;
  }
  dequantize_row(t.type, row, room, cols);
  for (int64_t k = 0; k < cols; ++k) reinterpret_cast<float*>(panel)[k * kPanelRows + lane] = room[k];
}

void pack_floats(const TensorInfo& t, CpuWeight::Segment& s, ThreadPool& pool) {
  const int64_t cols = t.cols(), panels = panels_of(t.rows());
  s.floats = float_form(t.type);
  s.layout.bytes = cols * kPanelRows * (s.floats == kF32 ? 4 : 2);
  s.data = weight_buffer(panels * s.layout.bytes);
  pool.for_each(panels, [&](int64_t p) {
    uint8_t* base = s.data.data() + p * s.layout.bytes;
    const int64_t end = std::min(t.rows(), (p + 1) * kPanelRows);
    if (s.floats != kF32 && end % kPanelRows == 0) {
      const int64_t bytes = row_bytes(t);
      return turn_halves(t.data + p * kPanelRows * bytes, bytes, cols, reinterpret_cast<uint16_t*>(base));
    }
    if (end % kPanelRows != 0) std::memset(base, 0, static_cast<size_t>(s.layout.bytes));
    std::vector<float> values(static_cast<size_t>(cols));
    for (int64_t r = p * kPanelRows; r < end; ++r) put_floats(t, r, s.floats, base, values.data());
  });
}

// Pairs of values to [pair][row]; `low`: what rounding leaves over, rounded likewise.
void put_pairs(const std::vector<float>& values, int64_t pairs, bool low, uint32_t* to) {
  const auto part = [low](float v) {
    const uint32_t high = bf16_of_bits(scalar::float_bits(v));
    if (!low) return high;
    return uint32_t{bf16_of_bits(scalar::float_bits(v - scalar::bits_float(high << 16)))};
  };
  for (int64_t i = 0; i < pairs; ++i) {
    const auto k = static_cast<size_t>(2 * i);
    to[i * kPanelRows] = part(values[k]) | part(values[k + 1]) << 16;
  }
}

// Of every half-precision number: its bfloat16 in the low half, what rounding leaves over in the high one.
const std::vector<uint32_t>& halves_as_bf16() {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> parts(1 << 16);
    for (uint32_t bits = 0; bits < parts.size(); ++bits) {
      const float v = scalar::half_to_float(static_cast<uint16_t>(bits));
      const uint32_t high = bf16_of_bits(scalar::float_bits(v));
      const uint32_t low = bf16_of_bits(scalar::float_bits(v - scalar::bits_float(high << 16)));
      parts[bits] = high | low << 16;
    }
    return parts;
  }();
  return table;
}

// The same of a row of half precision, an even number of them, high and low parts in one pass (low: may be null).
void put_half_pairs(const uint8_t* row, int64_t pairs, const uint32_t* table, uint32_t* high, uint32_t* low) {
  for (int64_t i = 0; i < pairs; ++i) {
    uint16_t two[2];
    std::memcpy(two, row + 4 * i, 4);
    const uint32_t even = table[two[0]], odd = table[two[1]];
    high[i * kPanelRows] = (even & 0xffff) | odd << 16;
    if (low) low[i * kPanelRows] = even >> 16 | (odd & 0xffff0000);
  }
}

void pack_pairs(const TensorInfo& t, bool split, CpuWeight::Segment& s, ThreadPool& pool) {
  const int64_t cols = t.cols(), pairs = (cols + 31) / 32 * 16, panels = panels_of(t.rows());
  s.pairs = true;
  s.split = split;
  s.layout.bytes = pairs * kPanelRows * 4 * (split ? 2 : 1);
  s.data = weight_buffer(panels * s.layout.bytes);
  pool.for_each(panels, [&](int64_t p) {
    auto* panel = reinterpret_cast<uint32_t*>(s.data.data() + p * s.layout.bytes);
    const int64_t end = std::min(t.rows(), (p + 1) * kPanelRows);
    if (end % kPanelRows != 0) std::memset(panel, 0, static_cast<size_t>(s.layout.bytes));
    std::vector<float> values(static_cast<size_t>(2 * pairs));  // the rest stays 0
    for (int64_t r = p * kPanelRows; r < end; ++r) {
      const uint8_t* row = t.data + r * row_bytes(t);
      if (t.type == TensorType::F16 && cols % 32 == 0) {
        uint32_t* high = panel + r % kPanelRows;
        put_half_pairs(row, pairs, halves_as_bf16().data(), high, split ? high + pairs * kPanelRows : nullptr);
        continue;
      }
      dequantize_row(t.type, row, values.data(), cols);
      put_pairs(values, pairs, false, panel + r % kPanelRows);
      if (split) put_pairs(values, pairs, true, panel + pairs * kPanelRows + r % kPanelRows);
    }
  });
}

}  // namespace

void pack_one(const CpuWeight::Segment& s, int64_t panel, int64_t place) {
  const int64_t first = panel * kPanelRows, bytes = row_bytes(s.tensor);
  pack_panel(s.tensor.type, s.tensor.data + first * bytes, bytes,
             static_cast<int>(std::min(kPanelRows, s.n_rows - first)), s.tensor.cols(), s.layout,
             s.data.data() + place * s.layout.bytes);
}

void pack_all(const CpuWeight& w, ThreadPool& pool) {
  for (const auto& s : w.segments)
    if (s.layout.affine.bits > 0) pool.for_each(panels_of(s.n_rows), [&](int64_t p) { pack_one(s, p, p); });
  w.packed = true;
}

WeightPtr pack_weight(std::span<const TensorInfo* const> parts, Isa, ThreadPool& pool, FloatPacking packing) {
  auto w = std::make_unique<CpuWeight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* t : parts) {
    CpuWeight::Segment s;
    s.first_row = w->rows;
    s.n_rows = t->rows();
    const AffineFormat f = affine_format(t->type);
    if (f.bits == 0 && packing != FloatPacking::exact) {
      pack_pairs(*t, packing == FloatPacking::bf16x3, s, pool);
      w->split = s.split;
    } else if (f.bits == 0) {
      pack_floats(*t, s, pool);
    } else {
      place_affine(*t, f, s);
      w->packed = false;
    }
    w->rows += s.n_rows;
    w->bytes += s.data.bytes();
    (s.layout.affine.bits > 0 ? w->quantised : s.pairs ? w->paired : w->floating) = true;
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
