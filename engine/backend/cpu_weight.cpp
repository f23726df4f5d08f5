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

// Half precision holds the scale to 2^-10 of itself (K-quants' products are the only ones that round at all).
bool fits_half(float v) {
  const float back = scalar::half_to_float(scalar::float_to_half(v));
  return std::isfinite(back) && std::fabs(back - v) <= std::fabs(v) * 0x1p-10f;
}

// One row's place in its panel.
struct PackedRow {
  uint8_t* codes;
  uint16_t *d, *m;
  int lane;
};

Codes form_of(const AffineFormat& f) {
  return f.table ? kTable : f.bits == 4 ? kNibbles : f.bits == 5 ? kFive : f.bits == 6 ? kSix : kBytes;
}

// Layouts: kernels/cpu/matmul.h. The panel's codes are zero before.
void put_codes(const PackedRow& row, Codes form, const uint8_t* codes, int64_t cols) {
  for (int64_t group = 0; group < cols / 32; ++group) {
    uint8_t* const p = row.codes + group * code_bytes(form) + row.lane * 4;
    for (int k = 0; k < 32; ++k) {
      const int code = codes[group * 32 + k], j = k / 4, i = k % 4;
      if (form == kBytes) {
        p[j * 64 + i] = static_cast<uint8_t>(code);
        continue;
      }
      p[j % 4 * 64 + i] |= static_cast<uint8_t>((code & 15) << (j < 4 ? 0 : 4));
      if (form == kFive) p[256 + i] |= static_cast<uint8_t>(code >> 4 << j);
      if (form == kSix) p[256 + j / 4 * 64 + i] |= static_cast<uint8_t>(code >> 4 << j % 4 * 2);
    }
  }
}

// False when a scale doesn't fit half precision.
bool pack_row(const TensorInfo& t, int64_t r, const AffineFormat& f, const PackedRow& row, std::vector<uint8_t>& codes,
              std::vector<float>& d, std::vector<float>& m) {
  const int64_t cols = t.cols(), subs = cols / f.sub;
  codes.resize(static_cast<size_t>(cols));
  d.resize(static_cast<size_t>(subs));
  m.resize(static_cast<size_t>(subs));
  unpack_affine(t.type, t.data + r * row_bytes(t), cols, codes.data(), d.data(), m.data());
  put_codes(row, form_of(f), codes.data(), cols);
  for (int64_t s = 0; s < subs; ++s) {
    const auto at = static_cast<size_t>(s);
    if (!fits_half(d[at]) || (f.mins && !fits_half(m[at]))) return false;
    row.d[s * kPanelRows + row.lane] = scalar::float_to_half(d[at]);
    if (f.mins) row.m[s * kPanelRows + row.lane] = scalar::float_to_half(m[at]);
  }
  return true;
}

bool pack_affine(const TensorInfo& t, const AffineFormat& f, CpuWeight::Segment& s, ThreadPool& pool) {
  const int64_t cols = t.cols();
  s.affine = f;
  s.form = form_of(f);
  const int64_t scale_bytes = (cols / f.sub * kPanelRows * 2 + 63) / 64 * 64;
  s.m_offset = f.mins ? scale_bytes : 0;
  s.code_offset = s.m_offset + scale_bytes;
  s.panel_bytes = s.code_offset + cols / 32 * code_bytes(s.form);
  const int64_t panels = panels_of(t.rows());
  s.data = weight_buffer(panels * s.panel_bytes);
  std::atomic<bool> fits{true};
  pool.for_each(panels, [&](int64_t p) {
    uint8_t* base = s.data.data() + p * s.panel_bytes;
    std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
    std::vector<uint8_t> codes;
    std::vector<float> d, m;
    for (int64_t r = p * kPanelRows; r < std::min(t.rows(), (p + 1) * kPanelRows); ++r) {
      const PackedRow row{base + s.code_offset, reinterpret_cast<uint16_t*>(base),
                          reinterpret_cast<uint16_t*>(base + s.m_offset), static_cast<int>(r % kPanelRows)};
      if (!pack_row(t, r, f, row, codes, d, m)) fits.store(false, std::memory_order_relaxed);
    }
  });
  return fits.load();
}

// F16 keeps its bits, BF16 and F32 become float32; codebook types (and scales outside of half precision) are expanded.
void pack_floats(const TensorInfo& t, CpuWeight::Segment& s, ThreadPool& pool) {
  const int64_t cols = t.cols(), panels = panels_of(t.rows());
  s.affine = {};
  s.half = t.type != TensorType::F32 && t.type != TensorType::BF16 && affine_format(t.type).bits == 0;
  s.panel_bytes = cols * kPanelRows * (s.half ? 2 : 4);
  s.data = weight_buffer(panels * s.panel_bytes);
  pool.for_each(panels, [&](int64_t p) {
    uint8_t* base = s.data.data() + p * s.panel_bytes;
    std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
    std::vector<float> values(static_cast<size_t>(cols));
    for (int64_t r = p * kPanelRows; r < std::min(t.rows(), (p + 1) * kPanelRows); ++r) {
      dequantize_row(t.type, t.data + r * row_bytes(t), values.data(), cols);
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t at = k * kPanelRows + r % kPanelRows;
        const float v = values[static_cast<size_t>(k)];
        if (s.half) {
          reinterpret_cast<uint16_t*>(base)[at] = scalar::float_to_half(v);
        } else {
          reinterpret_cast<float*>(base)[at] = v;
        }
      }
    }
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

// count rows of x side by side: [k][token].
void interleave(ConstMat x, int64_t t, int count, float* to) {
  for (int j = 0; j < count; ++j) {
    const float* from = x.row(t + j);
    for (int64_t k = 0; k < x.cols; ++k) to[k * count + j] = from[k];
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
        interleave(x, t, count, s.packed.data() + t * x.cols);
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
  return {base + s.code_offset,
          reinterpret_cast<const uint16_t*>(base),
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

void run_floats(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t t0, int64_t t1) {
  const FloatPanel w{s.data.data() + panel * s.panel_bytes, job.cols};
  for (int64_t t = t0; t < t1;) {
    const int count = next_float_block(t1 - t);
    job.kernels.floats[s.half](w, job.scratch.packed.data() + t * job.cols, count, out_of(job, s, panel, 1, t));
    t += count;
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

// Panels [p0, p1) of a segment times the tokens [t0, t1).
void run_panels(const Job& job, const CpuWeight::Segment& s, int64_t p0, int64_t p1, int64_t t0, int64_t t1,
                uint8_t* room) {
  const bool floating = s.affine.bits == 0, many = t1 - t0 >= kMany;
  for (int64_t p = p0; p < p1;) {
    const int n = !floating && many && p1 - p >= 2 ? 2 : 1;
    if (floating) {
      run_floats(job, s, p, t0, t1);
    } else if (many) {
      run_many(job, s, p, n, t0, t1, room);
    } else {
      run_few(job, s, p, t0, t1);
    }
    p += n;
  }
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
  const size_t share = static_cast<size_t>(2 * w.cols * kPanelRows), room = share * static_cast<size_t>(pool.size());
  if (w.quantised && x.rows >= kMany && scratch.codes.size() < room) scratch.codes = Buffer<uint8_t>(room);
  const Job job{kernels, out, w.cols, bias, scratch};
  // Items: panels times up to 96 tokens (a multiple of both block sizes), neighbours sharing their tokens. Few tokens
  // stream the weights: then longer runs of panels, yet several for each worker.
  constexpr int64_t kTokens = 96;
  const int64_t per_item = x.rows >= kMany ? 4 : std::max<int64_t>(4, panels_of(w.rows) / (8 * pool.size()));
  int64_t n_groups = 0;
  for (const auto& s : w.segments) n_groups += (panels_of(s.n_rows) + per_item - 1) / per_item;
  const int64_t n_items = n_groups * ((x.rows + kTokens - 1) / kTokens);
  std::atomic<int64_t> next{0};
  pool.run([&](int worker, int) {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) {
      int64_t group = item % n_groups;
      const int64_t t0 = item / n_groups * kTokens, t1 = std::min(x.rows, t0 + kTokens);
      for (const auto& s : w.segments) {
        const int64_t panels = panels_of(s.n_rows), groups = (panels + per_item - 1) / per_item;
        if (group < groups) {
          const int64_t p0 = group * per_item, p1 = std::min(panels, p0 + per_item);
          run_panels(job, s, p0, p1, t0, t1, scratch.codes.data() + static_cast<size_t>(worker) * share);
          break;
        }
        group -= groups;
      }
    }
  });
}

}  // namespace foveal
