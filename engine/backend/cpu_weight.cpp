// Packing of weights, and matrix products over them.
#include "engine/backend/cpu_weight.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

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

int64_t panels_of(int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
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
    std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
    RowParts parts(cols, f);
    for (int64_t r = p * kPanelRows; r < std::min(t.rows(), (p + 1) * kPanelRows); ++r) {
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
    std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
    std::vector<float> values(static_cast<size_t>(cols));
    for (int64_t r = p * kPanelRows; r < std::min(t.rows(), (p + 1) * kPanelRows); ++r)
      put_floats(t, r, s.floats, base, values.data());
  });
}

// The block of `count` tokens that begins with token t, in the scratch.
QuantTokens block_of(MatmulScratch& s, int64_t t, int count, int64_t cols) {
  const int64_t at32 = t * cols / 32, at16 = t * cols / 16;
  return {s.quads.data() + t * cols,
          s.scales.data() + at32,
          {s.sums[0].data() + at32, s.sums[1].data() + at16},
          {s.fsums[0].data() + at32, s.fsums[1].data() + at16},
          count};
}

void reserve_quantised(MatmulScratch& s, size_t total) {
  if (s.quads.size() >= total) return;
  s.quads = Buffer<int8_t>(total);
  s.scales = Buffer<float>(total / 32);
  for (int over16 = 0; over16 < 2; ++over16) {
    s.sums[over16] = Buffer<int32_t>(total / (over16 ? 16 : 32));
    s.fsums[over16] = Buffer<float>(total / (over16 ? 16 : 32));
  }
}

// The activations as both kinds of kernels want them, packed by all threads.
void pack_activations(ThreadPool& pool, const MatmulKernels& kernels, const CpuWeight& w, ConstMat x,
                      MatmulScratch& s) {
  const auto total = static_cast<size_t>(x.rows * x.cols);
  if (w.quantised) {
    reserve_quantised(s, total);
    pool.for_each((x.rows + 7) / 8, [&](int64_t i) {
      const int64_t stop = std::min(x.rows, i * 8 + 8);
      for (int64_t t = i * 8; t < stop;) {
        const int count = next_quant_block(stop - t);
        kernels.quantize(x.row(t), x.stride, x.cols, block_of(s, t, count, x.cols));
        t += count;
      }
    });
  }
  if (w.floating) {
    if (s.packed.size() < total) s.packed = Buffer<float>(total);
    pool.for_each((x.rows + 11) / 12, [&](int64_t i) {
      const int64_t stop = std::min(x.rows, i * 12 + 12);
      for (int64_t t = i * 12; t < stop;) {
        const int count = next_float_block(stop - t);
        kernels.interleave(x.row(t), x.stride, count, x.cols, s.packed.data() + t * x.cols);
        t += count;
      }
    });
  }
}

struct Job {
  const MatmulKernels& kernels;
  Mat out;
  int64_t cols;
  const float* bias;
  MatmulScratch& scratch;
};

QuantPanel panel_of(const CpuWeight::Segment& s, int64_t panel, int64_t cols) {
  const uint8_t* base = s.data.data() + panel * s.panel_bytes;
  return {reinterpret_cast<const float*>(base),
          base + s.code_offset,
          reinterpret_cast<const uint16_t*>(base + s.d_offset),
          s.affine.mins ? reinterpret_cast<const uint16_t*>(base + s.m_offset) : nullptr,
          s.affine.table,
          s.affine.offset,
          cols,
          s.form};
}

// Where the results of token t and the given panels go.
MatmulOut out_of(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t n_panels, int64_t t) {
  const int64_t in_segment = panel * kPanelRows, row = s.first_row + in_segment;
  return {job.out.row(t) + row, job.out.stride,
          static_cast<int>(std::min(n_panels * kPanelRows, s.n_rows - in_segment)),
          job.bias ? job.bias + row : nullptr};
}

void run_few_floats(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t t0, int64_t t1) {
  const uint8_t* w = s.data.data() + panel * s.panel_bytes;
  for (int64_t t = t0; t < t1;) {
    const int count = next_float_block(t1 - t);
    job.kernels.few_floats[s.floats](w, {job.scratch.packed.data() + t * job.cols, count, job.cols, false},
                                     out_of(job, s, panel, 1, t));
    t += count;
  }
}

constexpr int64_t kRange = 256;  // inputs at a time: two float32 panels and a block of tokens in the first-level cache

// Panels [panel, panel + n), n = 1 or 2, times the inputs [k0, k0 + n_k); 16-bit types are widened once.
void run_range(const Job& job, const CpuWeight::Segment& s, int64_t panel, int n, int64_t k0, int64_t n_k, int64_t t0,
               int64_t t1, float* room) {
  const float* w[2];
  for (int i = 0; i < n; ++i) {
    const uint8_t* values = s.data.data() + (panel + i) * s.panel_bytes + k0 * kPanelRows * (s.floats == kF32 ? 4 : 2);
    float* wide = room + i * kRange * kPanelRows;
    if (s.floats != kF32) job.kernels.widen[s.floats](values, n_k * kPanelRows, wide);
    w[i] = s.floats == kF32 ? reinterpret_cast<const float*>(values) : wide;
  }
  for (int64_t t = t0; t < t1;) {
    const int count = next_float_block(t1 - t);
    MatmulOut out = out_of(job, s, panel, n, t);
    if (k0 + n_k < job.cols) out.bias = nullptr;
    job.kernels.many_floats(w, n, {job.scratch.packed.data() + t * job.cols + k0 * count, count, n_k, k0 > 0}, out);
    t += count;
  }
}

// A range of inputs after the other: its activations stay in the second-level cache for all panels.
void run_many_floats(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
                     float* room) {
  for (int64_t k0 = 0; k0 < job.cols; k0 += kRange) {
    const int64_t n_k = std::min(kRange, job.cols - k0);
    for (int64_t p = p0; p < p1; p += 2) run_range(job, s, p, p1 - p >= 2 ? 2 : 1, k0, n_k, t0, t1, room);
  }
}

void run_few(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t t0, int64_t t1) {
  const QuantPanel w = panel_of(s, panel, job.cols);
  for (int64_t t = t0; t < t1;) {
    const int count = next_quant_block(t1 - t);
    job.kernels.few[s.form][s.affine.sub == 16](w, block_of(job.scratch, t, count, job.cols),
                                                out_of(job, s, panel, 1, t));
    t += count;
  }
}

// Panels [panel, panel + n), n = 1 or 2: their codes become bytes once, in the worker's room.
void run_many(const Job& job, const CpuWeight::Segment& s, int64_t panel, int n, int64_t t0, int64_t t1,
              uint8_t* room) {
  QuantPanel w[2];
  for (int i = 0; i < n; ++i) {
    w[i] = panel_of(s, panel + i, job.cols);
    if (s.form == kBytes) continue;
    uint8_t* bytes = room + i * job.cols * kPanelRows;
    job.kernels.expand[s.form](w[i], bytes);
    w[i].codes = bytes;
  }
  for (int64_t t = t0; t < t1;) {
    const int count = next_quant_block(t1 - t);
    job.kernels.many[s.affine.sub == 16](w, n, block_of(job.scratch, t, count, job.cols), out_of(job, s, panel, n, t));
    t += count;
  }
}

constexpr int64_t kMany = 16;  // tokens from which expanding codes pays

struct Room {  // one worker's
  uint8_t* codes = nullptr;
  float* values = nullptr;
};

// Panels [p0, p1) of a segment times the tokens [t0, t1).
void run_panels(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
                Room room) {
  const bool floating = s.affine.bits == 0;
  if (t1 - t0 < kMany) {
    for (int64_t p = p0; p < p1; ++p) floating ? run_few_floats(job, s, p, t0, t1) : run_few(job, s, p, t0, t1);
  } else if (floating) {
    run_many_floats(job, s, p0, p1, t0, t1, room.values);
  } else {
    for (int64_t p = p0; p < p1; p += 2) run_many(job, s, p, p1 - p >= 2 ? 2 : 1, t0, t1, room.codes);
  }
}

// How a product is cut into items: panels times tokens (a multiple of both block sizes; as many as the second-level
// cache holds well), neighbours sharing their tokens. Few tokens stream the weights: then longer runs of panels.
// Several items for each worker.
struct Cut {
  int64_t panels, tokens;
};
Cut cut_of(const CpuWeight& w, int64_t n_tokens, int64_t workers) {
  const int64_t panels = panels_of(w.rows);
  if (n_tokens < kMany) return {std::max<int64_t>(4, panels / (8 * workers)), kMany};
  Cut cut{w.floating ? 8 : 4, w.floating ? 192 : w.cols > 2048 ? 96 : 240};
  while (cut.panels > 2 && panels / cut.panels * ((n_tokens + cut.tokens - 1) / cut.tokens) < 8 * workers)
    cut.panels /= 2;
  return cut;
}

}  // namespace

const MatmulKernels& matmul_kernels(Isa isa) {
  switch (isa) {
#ifdef FOVEAL_HAVE_avx512
    case Isa::avx512:
      return avx512::matmul;
#endif
#ifdef FOVEAL_HAVE_avx2
    case Isa::avx2:
      return avx2::matmul;
#endif
#ifdef FOVEAL_HAVE_neon
    case Isa::neon:
      return neon::matmul;
#endif
    default:
      return scalar::matmul;
  }
}

WeightPtr pack_weight(std::span<const TensorInfo* const> parts, Isa, ThreadPool& pool) {
  auto w = std::make_unique<CpuWeight>();
  w->cols = parts[0]->cols();
  for (const TensorInfo* t : parts) {
    CpuWeight::Segment s;
    s.first_row = w->rows;
    s.n_rows = t->rows();
    const AffineFormat f = affine_format(t->type);
    if (f.bits == 0 || !pack_affine(*t, f, s, pool)) pack_floats(*t, s, pool);
    w->rows += s.n_rows;
    w->bytes += s.data.bytes();
    (s.affine.bits > 0 ? w->quantised : w->floating) = true;
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

void cpu_matmul(ThreadPool& pool, const MatmulKernels& kernels, Mat out, const CpuWeight& w, ConstMat x,
                const float* bias, MatmulScratch& scratch) {
  pack_activations(pool, kernels, w, x, scratch);
  const auto workers = static_cast<size_t>(pool.size());
  const size_t share = static_cast<size_t>(2 * w.cols * kPanelRows), range = 2 * kRange * kPanelRows;
  if (x.rows >= kMany) {
    if (w.quantised && scratch.codes.size() < share * workers) scratch.codes = Buffer<uint8_t>(share * workers);
    if (w.floating && scratch.values.size() < range * workers) scratch.values = Buffer<float>(range * workers);
  }
  const Job job{kernels, out, w.cols, bias, scratch};
  const Cut cut = cut_of(w, x.rows, pool.size());
  int64_t n_groups = 0;
  for (const auto& s : w.segments) n_groups += (panels_of(s.n_rows) + cut.panels - 1) / cut.panels;
  const int64_t n_items = n_groups * ((x.rows + cut.tokens - 1) / cut.tokens);
  std::atomic<int64_t> next{0};
  pool.run([&](int worker, int) {
    const auto index = static_cast<size_t>(worker);
    Room room{};
    if (scratch.codes.size() > 0) room.codes = scratch.codes.data() + index * share;
    if (scratch.values.size() > 0) room.values = scratch.values.data() + index * range;
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) {
      int64_t group = item % n_groups;
      const int64_t t0 = item / n_groups * cut.tokens, t1 = std::min(x.rows, t0 + cut.tokens);
      for (const auto& s : w.segments) {
        const int64_t panels = panels_of(s.n_rows), groups = (panels + cut.panels - 1) / cut.panels;
        if (group < groups) {
          const int64_t p0 = group * cut.panels, p1 = std::min(panels, p0 + cut.panels);
          run_panels(job, s, p0, p1, t0, t1, room);
          break;
        }
        group -= groups;
      }
    }
  });
}

}  // namespace foveal
