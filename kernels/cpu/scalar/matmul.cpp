// The specification of the matrix products: what every fast twin computes, bit for bit.
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cpu/scalar/half.h"

namespace foveal::scalar {

static void put_sum(const QuantTokens& to, int over16, int64_t at, int32_t sum) {
  to.sums[over16][at] = sum;
  to.fsums[over16][at] = static_cast<float>(sum);
}

static void quantize(const float* x, int64_t x_stride, int64_t cols, const QuantTokens& to) {
  for (int t = 0; t < to.used; ++t)
    for (int64_t b = 0; b < cols / 32; ++b) {
      const float* in = x + t * x_stride + b * 32;
      int32_t most = 0;  // magnitudes compared as integers: not-a-number is above infinity and never lost
      for (int i = 0; i < 32; ++i) most = std::max(most, std::bit_cast<int32_t>(std::fabs(in[i])));
      const auto amax = std::bit_cast<float>(most);
      const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
      to.scales[b * to.count + t] = amax / 127.0f;
      int32_t sums[2] = {};
      for (int i = 0; i < 32; ++i) {
        const float level = std::nearbyint(in[i] * inverse);
        const int32_t q = std::isnan(level) ? -128 : static_cast<int32_t>(level);
        to.quads[((b * 8 + i / 4) * to.count + t) * 4 + i % 4] = static_cast<int8_t>(q);
        sums[i / 16] += q;
      }
      for (int half = 0; half < 2; ++half) put_sum(to, 1, (b * 2 + half) * to.count + t, sums[half]);
      put_sum(to, 0, b * to.count + t, sums[0] + sums[1]);
    }
}

// Code of input k (0..31) of a group.
template <Codes C>
static int32_t code_at(const QuantPanel& w, const uint8_t* group, int row, int k) {
  const int j = k / 4, at = row * 4 + k % 4;
  if (C == kBytes) return group[j * 64 + at];
  const int low = group[(j % 4) * 64 + at] >> (j < 4 ? 0 : 4) & 15;
  if (C == kTable) return w.table[low];
  if (C == kFive) return low | (group[256 + at] >> j & 1) << 4;
  if (C == kSix) return low | (group[256 + (j / 4) * 64 + at] >> 2 * (j % 4) & 3) << 4;
  return low;
}

template <Codes C, int Sub>
static int32_t dot_at(const QuantPanel& w, const QuantTokens& x, int64_t sub, int row, int t) {
  const int64_t g = sub * Sub / 32;
  const int first = static_cast<int>(sub * Sub % 32);
  int32_t dot = -w.offset * x.sums[Sub == 16][sub * x.count + t];
  for (int k = first; k < first + Sub; ++k)
    dot += code_at<C>(w, w.codes + g * code_bytes(C), row, k) * x.quads[((g * 8 + k / 4) * x.count + t) * 4 + k % 4];
  return dot;
}

// acc + the products of one row and one token over all groups of w.
template <Codes C, int Sub>
static float add_groups(const QuantPanel& w, const QuantTokens& x, int row, int t, float acc) {
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    float part = 0;
    for (int64_t sub = g * 32 / Sub; sub < (g + 1) * 32 / Sub; ++sub) {
      const auto dot = static_cast<float>(dot_at<C, Sub>(w, x, sub, row, t));
      part = std::fma(dot, half_to_float(w.d[sub * kPanelRows + row]), part);
      if (w.m)
        part = std::fma(-half_to_float(w.m[sub * kPanelRows + row]), x.fsums[Sub == 16][sub * x.count + t], part);
    }
    acc = std::fma(part, x.scales[g * x.count + t], acc);
  }
  return acc;
}

static void put(const QuantPanel& w, const MatmulOut& o, int row, int t, float acc) {
  acc *= w.units[row];
  o.out[t * o.stride + row] = o.bias ? acc + o.bias[row] : acc;
}

template <Codes C, int Sub>
static void few(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  for (int t = 0; t < x.used; ++t)
    for (int row = 0; row < o.n_rows; ++row) put(w, o, row, t, add_groups<C, Sub>(w, x, row, t, 0));
}

// The share of panel p of a result that spans several.
static MatmulOut panel_out(const MatmulOut& o, int p) {
  const int first = p * static_cast<int>(kPanelRows), left = o.n_rows - first;
  return {o.out + first, o.stride, left < 16 ? left : 16, o.bias ? o.bias + first : nullptr};
}

template <Codes C>
static void expand(const QuantPanel& w, uint8_t* bytes) {
  for (int64_t g = 0; g < w.cols / 32; ++g)
    for (int k = 0; k < 32; ++k)
      for (int row = 0; row < kPanelRows; ++row)
        bytes[g * 512 + (k / 4) * 64 + row * 4 + k % 4] =
            static_cast<uint8_t>(code_at<C>(w, w.codes + g * code_bytes(C), row, k));
}

template <int Sub>
static void many(const QuantPanel* w, int n_panels, const QuantTokens& x, const RangeSums& r, const MatmulOut& o) {
  for (int p = 0; p < n_panels; ++p) {
    const MatmulOut out = panel_out(o, p);
    for (int t = 0; t < x.used; ++t)
      for (int row = 0; row < out.n_rows; ++row) {
        float* sum = r.sums + (t * n_panels + p) * kPanelRows + row;
        *sum = add_groups<kBytes, Sub>(w[p], x, row, t, r.first ? 0 : *sum);
        if (r.last) put(w[p], out, row, t, *sum);
      }
  }
}

static void interleave(const float* x, int64_t x_stride, int count, int used, int64_t cols, float* to) {
  for (int64_t k = 0; k < cols; ++k)
    for (int t = 0; t < count; ++t) to[k * count + t] = t < used ? x[t * x_stride + k] : 0;
}

template <Floats F>
static float value_at(const void* values, int64_t i) {
  if (F == kF32) return static_cast<const float*>(values)[i];
  const uint16_t bits = static_cast<const uint16_t*>(values)[i];
  return F == kF16 ? half_to_float(bits) : bits_float(uint32_t{bits} << 16);
}

template <Floats F>
static float add_floats(const void* panel, const FloatTokens& x, int row, int t, float acc) {
  for (int64_t k = 0; k < x.n_k; ++k)
    acc = std::fma(value_at<F>(panel, k * kPanelRows + row), x.x[k * x.count + t], acc);
  return acc;
}

static void put_float(const MatmulOut& o, int row, int t, float acc) {
  o.out[t * o.stride + row] = o.bias ? acc + o.bias[row] : acc;
}

template <Floats F>
static void few_floats(const void* panel, const FloatTokens& x, const MatmulOut& o) {
  for (int t = 0; t < x.used; ++t)
    for (int row = 0; row < o.n_rows; ++row) put_float(o, row, t, add_floats<F>(panel, x, row, t, 0));
}

template <Floats F>
static void widen(const void* values, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = value_at<F>(values, i);
}

static void many_floats(const float* const* panels, int n_panels, const FloatTokens& x, const RangeSums& r,
                        const MatmulOut& o) {
  for (int p = 0; p < n_panels; ++p) {
    const MatmulOut out = panel_out(o, p);
    for (int t = 0; t < x.used; ++t)
      for (int row = 0; row < out.n_rows; ++row) {
        float* sum = r.sums + (t * n_panels + p) * kPanelRows + row;
        const float acc = add_floats<kF32>(panels[p], x, row, t, r.first ? 0 : *sum);
        r.last ? put_float(out, row, t, acc) : void(*sum = acc);
      }
  }
}

#include "kernels/cpu/matmul_table.inc"

}  // namespace foveal::scalar
