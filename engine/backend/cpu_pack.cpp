// Weights packed at load into the panels of kernels/cpu/matmul.h, and read back: rows, whole tensors.
#include <algorithm>
#include <atomic>
#include <cmath>
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

// One row's place in its panel.
struct PackedRow {
  float* unit;
  uint16_t *d, *m;
  uint8_t* codes;
  int lane;
};

Codes form_of(const AffineFormat& f) {
  return f.table ? kTable : f.bits == 4 ? kNibbles : f.bits == 5 ? kFive : f.bits == 6 ? kSix : kBytes;
}

// One row's share of a group of 32 codes, four to a word; layouts: kernels/cpu/matmul.h.
void put_group(uint8_t* p, Codes form, const uint8_t* codes) {
  uint32_t quads[8];
  std::memcpy(quads, codes, sizeof quads);
  const auto put = [p](int64_t at, uint32_t word) { std::memcpy(p + at, &word, sizeof word); };
  if (form == kBytes) {
    for (int j = 0; j < 8; ++j) put(j * 64, quads[j]);
    return;
  }
  constexpr uint32_t kLow = 0x0f0f0f0f;
  for (int j = 0; j < 4; ++j) put(j * 64, (quads[j] & kLow) | (quads[j + 4] & kLow) << 4);
  uint32_t fifth = 0, high[2] = {};
  for (int j = 0; j < 8; ++j) {
    fifth |= (quads[j] >> 4 & 0x01010101) << j;
    high[j / 4] |= (quads[j] >> 4 & 0x03030303) << j % 4 * 2;
  }
  if (form == kFive) put(256, fifth);
  if (form == kSix) put(256, high[0]), put(320, high[1]);
}

// The power of two that brings the largest of the scales into [2^14, 2^15).
float unit_of(const std::vector<float>& d, const std::vector<float>& m) {
  float most = 0;
  for (const float v : d) most = std::max(most, std::fabs(v));
  for (const float v : m) most = std::max(most, std::fabs(v));
  return most > 0 ? std::ldexp(1.0f, std::max(std::ilogb(most), -100) - 14) : 1.0f;
}

// Where one row's parts are collected before they are packed.
struct RowParts {
  std::vector<uint8_t> codes;
  std::vector<float> d, m;
  RowParts(int64_t cols, const AffineFormat& f)
      : codes(static_cast<size_t>(cols)),
        d(static_cast<size_t>(cols / f.sub)),
        m(f.mins ? static_cast<size_t>(cols / f.sub) : 0) {}
};

// False when a scale isn't finite: such a tensor is kept as floats.
bool pack_row(const TensorInfo& t, int64_t r, const AffineFormat& f, const PackedRow& row, RowParts& parts) {
  const int64_t cols = t.cols();
  unpack_affine(t.type, t.data + r * row_bytes(t), cols, parts.codes.data(), parts.d.data(), parts.m.data());
  const Codes form = form_of(f);
  for (int64_t g = 0; g < cols / 32; ++g)
    put_group(row.codes + g * code_bytes(form) + row.lane * 4, form, parts.codes.data() + g * 32);
  const auto finite = [](float v) { return std::isfinite(v); };
  if (!std::all_of(parts.d.begin(), parts.d.end(), finite) || !std::all_of(parts.m.begin(), parts.m.end(), finite))
    return false;
  const float unit = unit_of(parts.d, parts.m), inverse = 1.0f / unit;
  row.unit[row.lane] = unit;
  const auto put = [&](const std::vector<float>& from, uint16_t* to) {
    for (size_t s = 0; s < from.size(); ++s)
      to[s * kPanelRows + static_cast<size_t>(row.lane)] = scalar::float_to_half(from[s] * inverse);
  };
  put(parts.d, row.d);
  put(parts.m, row.m);
  return true;
}

bool pack_affine(const TensorInfo& t, const AffineFormat& f, CpuWeight::Segment& s, ThreadPool& pool) {
  const int64_t cols = t.cols();
  s.affine = f;
  s.form = form_of(f);
  const int64_t scale_bytes = (cols / f.sub * kPanelRows * 2 + 63) / 64 * 64;
  s.d_offset = kPanelRows * 4;
  s.m_offset = s.d_offset + scale_bytes;
  s.code_offset = s.m_offset + (f.mins ? scale_bytes : 0);
  s.panel_bytes = s.code_offset + cols / 32 * code_bytes(s.form);
  const int64_t panels = panels_of(t.rows());
  s.data = weight_buffer(panels * s.panel_bytes);
  std::atomic<bool> finite{true};
  pool.for_each(panels, [&](int64_t p) {
    uint8_t* base = s.data.data() + p * s.panel_bytes;
    const int64_t end = std::min(t.rows(), (p + 1) * kPanelRows);
    if (end % kPanelRows != 0) std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
    RowParts parts(cols, f);
    for (int64_t r = p * kPanelRows; r < end; ++r) {
      const PackedRow row{reinterpret_cast<float*>(base), reinterpret_cast<uint16_t*>(base + s.d_offset),
                          reinterpret_cast<uint16_t*>(base + s.m_offset), base + s.code_offset,
                          static_cast<int>(r % kPanelRows)};
      if (!pack_row(t, r, f, row, parts)) finite.store(false, std::memory_order_relaxed);
    }
  });
  return finite.load();
}

// 16-bit float types keep their bits; quantised types whose scales are not finite become float32.
Floats float_form(TensorType type) {
  return type == TensorType::F16 ? kF16 : type == TensorType::BF16 ? kBF16 : kF32;
}

using Eight = uint16_t __attribute__((vector_size(16)));

// Inputs k..k+7 of 8 rows of 16-bit numbers, `row_bytes` apart, to to[k * 16 + row].
void transpose8(const uint8_t* rows, int64_t row_bytes, int64_t k, uint16_t* to) {
  Eight r[8], s[8];
  for (int i = 0; i < 8; ++i) std::memcpy(&r[i], rows + i * row_bytes + 2 * k, 16);
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = __builtin_shufflevector(r[i], r[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    s[2 * i + 1] = __builtin_shufflevector(r[i], r[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    r[2 * i] = __builtin_shufflevector(s[i], s[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    r[2 * i + 1] = __builtin_shufflevector(s[i], s[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = __builtin_shufflevector(r[i], r[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    s[2 * i + 1] = __builtin_shufflevector(r[i], r[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; ++i) std::memcpy(to + (k + i) * kPanelRows, &s[i], 16);
}

// A whole panel of a 16-bit type: 8 by 8.
void put_panel16(const TensorInfo& t, int64_t first_row, uint8_t* panel) {
  const int64_t cols = t.cols(), whole = cols / 8 * 8, bytes = row_bytes(t);
  const uint8_t* rows = t.data + first_row * bytes;
  auto* to = reinterpret_cast<uint16_t*>(panel);
  for (int64_t k = 0; k < whole; k += 8)
    for (int half = 0; half < 2; ++half) transpose8(rows + half * 8 * bytes, bytes, k, to + half * 8);
  for (int64_t k = whole; k < cols; ++k)
    for (int64_t r = 0; r < kPanelRows; ++r) std::memcpy(to + k * kPanelRows + r, rows + r * bytes + 2 * k, 2);
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
  s.affine = {};
  s.floats = float_form(t.type);
  s.panel_bytes = cols * kPanelRows * (s.floats == kF32 ? 4 : 2);
  s.data = weight_buffer(panels * s.panel_bytes);
  pool.for_each(panels, [&](int64_t p) {
    uint8_t* base = s.data.data() + p * s.panel_bytes;
    const int64_t end = std::min(t.rows(), (p + 1) * kPanelRows);
    if (s.floats != kF32 && end % kPanelRows == 0) return put_panel16(t, p * kPanelRows, base);
    if (end % kPanelRows != 0) std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
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
  s.affine = {};
  s.pairs = true;
  s.split = split;
  s.panel_bytes = pairs * kPanelRows * 4 * (split ? 2 : 1);
  s.data = weight_buffer(panels * s.panel_bytes);
  pool.for_each(panels, [&](int64_t p) {
    auto* panel = reinterpret_cast<uint32_t*>(s.data.data() + p * s.panel_bytes);
    const int64_t end = std::min(t.rows(), (p + 1) * kPanelRows);
    if (end % kPanelRows != 0) std::memset(panel, 0, static_cast<size_t>(s.panel_bytes));
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
    } else if (f.bits == 0 || !pack_affine(*t, f, s, pool)) {
      pack_floats(*t, s, pool);
    }
    w->rows += s.n_rows;
    w->bytes += s.data.bytes();
    (s.affine.bits > 0 ? w->quantised : s.pairs ? w->paired : w->floating) = true;
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
