// Packing of weights, and matrix products over them.
#include "engine/backend/cpu_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/scalar/half.h"

namespace foveal {

namespace {

int64_t row_bytes(const TensorInfo& t) {
  const TypeTraits& traits = traits_of(t.type);
  return t.cols() / traits.block_elements * traits.block_bytes;
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

void put_codes(const PackedRow& row, int bits, const uint8_t* codes, int64_t cols) {
  for (int64_t k = 0; k < cols; ++k) {
    const int64_t group = k / 32, at = k % 32;
    if (bits == 8) {
      row.codes[group * 512 + at / 4 * 64 + row.lane * 4 + at % 4] = codes[k];
      continue;
    }
    uint8_t& byte = row.codes[group * 256 + at % 16 / 4 * 64 + row.lane * 4 + at % 4];
    byte =
        at < 16 ? static_cast<uint8_t>((byte & 0xf0) | codes[k]) : static_cast<uint8_t>((byte & 0x0f) | codes[k] << 4);
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
  put_codes(row, f.bits, codes.data(), cols);
  for (int64_t s = 0; s < subs; ++s) {
    const auto at = static_cast<size_t>(s);
    if (!fits_half(d[at]) || (f.mins && !fits_half(m[at]))) return false;
    row.d[s * kPanelRows + row.lane] = scalar::float_to_half(d[at]);
    if (f.mins) row.m[s * kPanelRows + row.lane] = scalar::float_to_half(m[at]);
  }
  return true;
}

bool pack_affine(const TensorInfo& t, const AffineFormat& f, CpuWeight::Segment& s, ThreadPool& pool) {
  const int64_t cols = t.cols(), scales = cols / f.sub * kPanelRows;
  s.affine = f;
  s.d_offset = cols / 32 * (f.bits == 4 ? 256 : 512);
  s.m_offset = s.d_offset + scales * 2;
  s.panel_bytes = (s.m_offset + (f.mins ? scales * 2 : 0) + 63) / 64 * 64;
  const int64_t panels = panels_of(t.rows());
  s.data = Buffer<uint8_t>(static_cast<size_t>(panels * s.panel_bytes));
  std::atomic<bool> fits{true};
  pool.for_each(panels, [&](int64_t p) {
    uint8_t* base = s.data.data() + p * s.panel_bytes;
    std::memset(base, 0, static_cast<size_t>(s.panel_bytes));
    std::vector<uint8_t> codes;
    std::vector<float> d, m;
    for (int64_t r = p * kPanelRows; r < std::min(t.rows(), (p + 1) * kPanelRows); ++r) {
      const PackedRow row{base, reinterpret_cast<uint16_t*>(base + s.d_offset),
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
  s.data = Buffer<uint8_t>(static_cast<size_t>(panels * s.panel_bytes));
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

// From the sums of 16 inputs of a block: those of 32, and both times the scale.
void finish_sums(int count, int64_t cols, const float* scales, int64_t t, MatmulScratch& s) {
  const int32_t* sums16 = s.sums[1].data() + t * cols / 16;
  int32_t* sums32 = s.sums[0].data() + t * cols / 32;
  float *scaled16 = s.scaled[1].data() + t * cols / 16, *scaled32 = s.scaled[0].data() + t * cols / 32;
  for (int64_t g = 0; g < cols / 32; ++g)
    for (int j = 0; j < count; ++j) {
      const int32_t a = sums16[2 * g * count + j], b = sums16[(2 * g + 1) * count + j];
      const float scale = scales[g * count + j];
      sums32[g * count + j] = a + b;
      scaled32[g * count + j] = static_cast<float>(a + b) * scale;
      scaled16[2 * g * count + j] = static_cast<float>(a) * scale;
      scaled16[(2 * g + 1) * count + j] = static_cast<float>(b) * scale;
    }
}

// The activations as both kinds of kernels want them, packed by all threads.
void pack_activations(ThreadPool& pool, const MatmulKernels& kernels, const CpuWeight& w, ConstMat x,
                      MatmulScratch& s) {
  const auto total = static_cast<size_t>(x.rows * x.cols);
  if (w.quantised) {
    if (s.quads.size() < total) {
      s.quads = Buffer<int8_t>(total);
      s.scales = Buffer<float>(total / 32);
      for (int half = 0; half < 2; ++half) {
        s.sums[half] = Buffer<int32_t>(total / (half ? 16 : 32));
        s.scaled[half] = Buffer<float>(total / (half ? 16 : 32));
      }
    }
    pool.for_each((x.rows + 15) / 16, [&](int64_t i) {
      const int64_t stop = std::min(x.rows, i * 16 + 16);
      for (int64_t t = i * 16; t < stop;) {
        const int count = next_quant_block(stop - t);
        float* scales = s.scales.data() + t * x.cols / 32;
        kernels.quantize(x.row(t), x.stride, count, x.cols, s.quads.data() + t * x.cols, scales,
                         s.sums[1].data() + t * x.cols / 16);
        finish_sums(count, x.cols, scales, t, s);
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
        float* to = s.packed.data() + t * x.cols;
        for (int j = 0; j < count; ++j) {
          const float* from = x.row(t + j);
          for (int64_t k = 0; k < x.cols; ++k) to[k * count + j] = from[k];
        }
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
  const MatmulScratch& scratch;
};

// One panel times the tokens [t0, t1).
void run_panel(const Job& job, const CpuWeight::Segment& s, int64_t panel, int64_t t0, int64_t t1) {
  const uint8_t* base = s.data.data() + panel * s.panel_bytes;
  const int64_t row = s.first_row + panel * kPanelRows;
  MatmulOut o;
  o.stride = job.out.stride;
  o.n_rows = static_cast<int>(std::min(kPanelRows, s.n_rows - panel * kPanelRows));
  o.bias = job.bias ? job.bias + row : nullptr;
  const int64_t cols = job.cols;
  for (int64_t t = t0; t < t1;) {
    o.out = job.out.row(t) + row;
    if (s.affine.bits > 0) {
      const int count = next_quant_block(t1 - t);
      const QuantPanel w{base, reinterpret_cast<const uint16_t*>(base + s.d_offset),
                         s.affine.mins ? reinterpret_cast<const uint16_t*>(base + s.m_offset) : nullptr,
                         s.affine.offset, cols};
      const QuantTokens x{job.scratch.quads.data() + t * cols,
                          job.scratch.scales.data() + t * cols / 32,
                          {job.scratch.sums[0].data() + t * cols / 32, job.scratch.sums[1].data() + t * cols / 16},
                          {job.scratch.scaled[0].data() + t * cols / 32, job.scratch.scaled[1].data() + t * cols / 16},
                          count};
      job.kernels.quant[s.affine.bits == 8][s.affine.sub == 16](w, x, o);
      t += count;
    } else {
      const int count = next_float_block(t1 - t);
      job.kernels.floats[s.half]({base, cols}, job.scratch.packed.data() + t * cols, count, o);
      t += count;
    }
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
  const Job job{kernels, out, w.cols, bias, scratch};
  // Items: 4 panels times up to 96 tokens (a multiple of both block sizes), neighbours sharing their tokens.
  constexpr int64_t kTokens = 96, kPanels = 4;
  int64_t n_groups = 0;
  for (const auto& s : w.segments) n_groups += (panels_of(s.n_rows) + kPanels - 1) / kPanels;
  const int64_t n_tokens = (x.rows + kTokens - 1) / kTokens;
  pool.for_each(n_groups * n_tokens, [&](int64_t item) {
    int64_t group = item % n_groups;
    const int64_t t0 = item / n_groups * kTokens, t1 = std::min(x.rows, t0 + kTokens);
    for (const auto& s : w.segments) {
      const int64_t panels = panels_of(s.n_rows), groups = (panels + kPanels - 1) / kPanels;
      if (group >= groups) {
        group -= groups;
        continue;
      }
      for (int64_t p = group * kPanels; p < std::min(panels, (group + 1) * kPanels); ++p) run_panel(job, s, p, t0, t1);
      return;
    }
  });
}

}  // namespace foveal
