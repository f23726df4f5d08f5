// Scale search of the K types. Sub-blocks are fitted first, each by least squares on a grid of first guesses; then the
// scales are rounded to the block's grid, each to the better of its neighbours, and the block's own scale is fitted to
// the codes that came out. Errors are weighted by size: large weights matter more for a product's error.
#include "kernels/quant/quantize_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/blocks.h"

namespace foveal {

namespace {

using scalar::float_to_half;
using scalar::half_to_float;

constexpr int kBlock = 256;

// Nearest integer, ties to even, |x| < 2^22.
float nearest(float x) {
  return (x + 12582912.0f) - 12582912.0f;
}

float code_of(float x, float low, float high) {
  return nearest(std::min(std::max(x, low), high));
}

// Sum of f(i), i < n, a multiple of 4: four sums side by side, which compilers turn into one vector.
template <int n, class F>
float sum_of(const F& f) {
  float sum[4] = {};
  for (int i = 0; i < n; i += 4)
    for (int j = 0; j < 4; ++j) sum[j] += f(i + j);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// w_i = root mean square of the n elements + |x_i|
template <int n>
void weigh(const float* x, float* w) {
  const float rms = std::sqrt(sum_of<n>([&](int i) { return x[i] * x[i]; }) / static_cast<float>(n));
  for (int i = 0; i < n; ++i) w[i] = rms + std::fabs(x[i]);
}

// ---------------------------------------------------------------------------------- Q4_K, Q5_K: x = scale * code - min

constexpr int kSub = 32, kSubs = kBlock / kSub;

struct Affine {
  float scale = 0, min = 0;
};

// Codes nearest to x, and their weighted squared error.
float assign(const float* x, const float* w, Affine a, float top, float* codes) {
  const float inverse = a.scale > 0 ? 1.0f / a.scale : 0.0f;
  for (int i = 0; i < kSub; ++i) codes[i] = code_of((x[i] + a.min) * inverse, 0, top);
  return sum_of<kSub>([&](int i) {
    const float off = a.scale * codes[i] - a.min - x[i];
    return w[i] * off * off;
  });
}

// A sub-block and the weighted sums of it that no code changes.
struct Samples {
  const float *x, *w;
  float wx[kSub], sw, sx;
  Samples(const float* values, const float* weights) : x(values), w(weights) {
    for (int i = 0; i < kSub; ++i) wx[i] = w[i] * x[i];
    sw = sum_of<kSub>([&](int i) { return w[i]; });
    sx = sum_of<kSub>([&](int i) { return wx[i]; });
  }
};

// Least squares over scale and min >= 0 for given codes; `gain` is what they take away from the sum of w * x * x.
Affine fit(const Samples& s, const float* codes, float* gain) {
  const float sq = sum_of<kSub>([&](int i) { return s.w[i] * codes[i]; });
  const float sqq = sum_of<kSub>([&](int i) { return s.w[i] * codes[i] * codes[i]; });
  const float sxq = sum_of<kSub>([&](int i) { return s.wx[i] * codes[i]; });
  const float det = s.sw * sqq - sq * sq;
  Affine a{sqq > 0 ? sxq / sqq : 0.0f, 0};
  if (det > 0) {
    const Affine both{(s.sw * sxq - sq * s.sx) / det, (sq * sxq - sqq * s.sx) / det};
    if (both.min >= 0) a = both;
  }
  *gain = a.scale * sxq - a.min * s.sx;
  return a;
}

Affine search(const float* x, const float* w, float top) {
  const float low = std::min(0.0f, *std::min_element(x, x + kSub)), high = *std::max_element(x, x + kSub);
  if (high <= low) return {0, -low};
  const Samples samples(x, w);
  Affine best{(high - low) / top, -low};
  float most = -INFINITY, gain, codes[kSub];
  for (int step = 0; step <= 20; ++step) {
    const float inverse = (top - 1.0f + 0.1f * static_cast<float>(step)) / (high - low);
    for (int i = 0; i < kSub; ++i) codes[i] = code_of((x[i] - low) * inverse, 0, top);
    const Affine a = fit(samples, codes, &gain);
    if (!(gain > most) || a.scale <= 0) continue;
    most = gain;
    best = a;
  }
  assign(x, w, best, top, codes);
  const Affine again = fit(samples, codes, &gain);
  return gain > most && again.scale > 0 ? again : best;
}

// A block in the making. d, dmin: as the file's half values.
struct AffineBlock {
  float d = 0, dmin = 0;
  uint8_t scale[kSubs] = {}, min[kSubs] = {};
  float codes[kBlock] = {};  // whole numbers
};

// Each sub-block's scale and min on the grid of d and dmin: the best of the neighbours. Returns the error.
float round_subs(const float* x, const float* w, const Affine* wanted, float top, AffineBlock& b) {
  const auto grid = [](float value, float unit) { return unit > 0 ? value / unit : 0.0f; };
  float total = 0;
  for (int k = 0; k < kSubs; ++k) {
    const float s = grid(wanted[k].scale, b.d), m = grid(wanted[k].min, b.dmin);
    float least = INFINITY;
    for (int choice = 0; choice < 4; ++choice) {
      const int is = std::clamp(static_cast<int>(s) + (choice & 1), 0, 63);
      const int im = std::clamp(static_cast<int>(m) + (choice >> 1), 0, 63);
      float codes[kSub];
      const Affine a{b.d * static_cast<float>(is), b.dmin * static_cast<float>(im)};
      const float error = assign(x + k * kSub, w + k * kSub, a, top, codes);
      if (error >= least) continue;
      least = error;
      b.scale[k] = static_cast<uint8_t>(is);
      b.min[k] = static_cast<uint8_t>(im);
      std::copy_n(codes, kSub, b.codes + k * kSub);
    }
    total += least;
  }
  return total;
}

// d and dmin by least squares over the whole block, codes, scales and mins given.
void refit(const float* x, const float* w, AffineBlock& b) {
  double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (int i = 0; i < kBlock; ++i) {
    const double p = static_cast<double>(b.scale[i / kSub]) * b.codes[i], m = -static_cast<double>(b.min[i / kSub]);
    aa += w[i] * p * p;
    ab += w[i] * p * m;
    bb += w[i] * m * m;
    ax += w[i] * p * x[i];
    bx += w[i] * m * x[i];
  }
  const double det = aa * bb - ab * ab;
  double d = aa > 0 ? ax / aa : 0, dmin = b.dmin;
  if (det > 1e-9 * aa * bb) {
    d = (bb * ax - ab * bx) / det;
    dmin = (aa * bx - ab * ax) / det;
  }
  if (d > 0) b.d = half_to_float(float_to_half(static_cast<float>(d)));
  if (dmin > 0) b.dmin = half_to_float(float_to_half(static_cast<float>(dmin)));
}

AffineBlock quantize_affine(const float* x, float top) {
  float w[kBlock];
  Affine wanted[kSubs];
  float most_scale = 0, most_min = 0;
  for (int k = 0; k < kSubs; ++k) {
    weigh<kSub>(x + k * kSub, w + k * kSub);
    wanted[k] = search(x + k * kSub, w + k * kSub, top);
    most_scale = std::max(most_scale, wanted[k].scale);
    most_min = std::max(most_min, wanted[k].min);
  }
  AffineBlock best;
  best.d = half_to_float(float_to_half(most_scale / 63));
  best.dmin = half_to_float(float_to_half(most_min / 63));
  float least = round_subs(x, w, wanted, top, best);
  for (int round = 0; round < 2; ++round) {
    AffineBlock next = best;
    refit(x, w, next);
    const float error = round_subs(x, w, wanted, top, next);
    if (error >= least) break;
    least = error;
    best = next;
  }
  return best;
}

// 6 bits each: the first four in the low bits of bytes 0-3 and 4-7, the others over bytes 8-11 and the free top bits.
void pack_scales(const AffineBlock& b, uint8_t* out) {
  std::memset(out, 0, 12);
  for (int k = 0; k < 4; ++k) {
    out[k] = static_cast<uint8_t>(b.scale[k] | (b.scale[k + 4] >> 4) << 6);
    out[k + 4] = static_cast<uint8_t>(b.min[k] | (b.min[k + 4] >> 4) << 6);
    out[k + 8] = static_cast<uint8_t>((b.scale[k + 4] & 15) | (b.min[k + 4] & 15) << 4);
  }
}

// Codes of sub-blocks 2g and 2g + 1 share the bytes of group g.
void pack_nibbles(const float* codes, uint8_t* qs) {
  for (int i = 0; i < kBlock / 2; ++i) {
    const float* group = codes + i / kSub * 2 * kSub + i % kSub;
    qs[i] = static_cast<uint8_t>((static_cast<int>(group[0]) & 15) | (static_cast<int>(group[kSub]) & 15) << 4);
  }
}

void quantize(const float* x, BlockQ4_K& out) {
  const AffineBlock b = quantize_affine(x, 15);
  out.d = float_to_half(b.d);
  out.dmin = float_to_half(b.dmin);
  pack_scales(b, out.scales);
  pack_nibbles(b.codes, out.qs);
}

void quantize(const float* x, BlockQ5_K& out) {
  const AffineBlock b = quantize_affine(x, 31);
  out.d = float_to_half(b.d);
  out.dmin = float_to_half(b.dmin);
  pack_scales(b, out.scales);
  pack_nibbles(b.codes, out.qs);
  std::memset(out.qh, 0, sizeof out.qh);
  for (int i = 0; i < kBlock; ++i)
    out.qh[i % kSub] = static_cast<uint8_t>(out.qh[i % kSub] | (static_cast<int>(b.codes[i]) >> 4) << (i / kSub));
}

// ------------------------------------------------------------------------------------ Q6_K: x = scale * (code - 32)

constexpr int kSub6 = 16, kSubs6 = kBlock / kSub6;

float assign6(const float* x, const float* w, float scale, float* codes) {
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < kSub6; ++i) codes[i] = code_of(x[i] * inverse, -32, 31);
  return sum_of<kSub6>([&](int i) {
    const float off = scale * codes[i] - x[i];
    return w[i] * off * off;
  });
}

// The scale of least weighted error: the largest element lies on a code near -32.
float search6(const float* x, const float* w) {
  float most = 0;
  for (int i = 0; i < kSub6; ++i)
    if (std::fabs(x[i]) > std::fabs(most)) most = x[i];
  if (most == 0) return 0;
  float best = 0, gain = -1, codes[kSub6];
  for (int step = -9; step <= 9; ++step) {
    const float inverse = (32.0f + 0.1f * static_cast<float>(step)) / -most;
    for (int i = 0; i < kSub6; ++i) codes[i] = code_of(x[i] * inverse, -32, 31);
    const float xq = sum_of<kSub6>([&](int i) { return w[i] * x[i] * codes[i]; });
    const float qq = sum_of<kSub6>([&](int i) { return w[i] * codes[i] * codes[i]; });
    if (!(qq > 0) || xq * xq / qq <= gain) continue;  // the error is the sum of w * x * x less xq * xq / qq
    gain = xq * xq / qq;
    best = xq / qq;
  }
  return best;
}

struct SymmetricBlock {
  float d = 0;
  int8_t scale[kSubs6] = {};
  float codes[kBlock] = {};  // whole numbers
};

float round_subs6(const float* x, const float* w, const float* wanted, SymmetricBlock& b) {
  float total = 0;
  for (int k = 0; k < kSubs6; ++k) {
    const int first = b.d != 0 ? static_cast<int>(std::floor(wanted[k] / b.d)) : 0;
    float least = INFINITY;
    for (int is = first; is <= first + 1; ++is) {
      const int scale = std::clamp(is, -128, 127);
      float codes[kSub6];
      const float error = assign6(x + k * kSub6, w + k * kSub6, b.d * static_cast<float>(scale), codes);
      if (error >= least) continue;
      least = error;
      b.scale[k] = static_cast<int8_t>(scale);
      std::copy_n(codes, kSub6, b.codes + k * kSub6);
    }
    total += least;
  }
  return total;
}

SymmetricBlock quantize_symmetric(const float* x) {
  float w[kBlock], wanted[kSubs6];
  float most = 0;
  for (int k = 0; k < kSubs6; ++k) {
    weigh<kSub6>(x + k * kSub6, w + k * kSub6);
    wanted[k] = search6(x + k * kSub6, w + k * kSub6);
    if (std::fabs(wanted[k]) > std::fabs(most)) most = wanted[k];
  }
  SymmetricBlock best;
  best.d = half_to_float(float_to_half(most / -128));
  float least = round_subs6(x, w, wanted, best);
  double xq = 0, qq = 0;
  for (int i = 0; i < kBlock; ++i) {
    const double q = static_cast<double>(best.scale[i / kSub6]) * best.codes[i];
    xq += w[i] * q * x[i];
    qq += w[i] * q * q;
  }
  if (qq == 0) return best;
  SymmetricBlock next = best;
  next.d = half_to_float(float_to_half(static_cast<float>(xq / qq)));
  return round_subs6(x, w, wanted, next) < least ? next : best;
}

void quantize(const float* x, BlockQ6_K& out) {
  const SymmetricBlock b = quantize_symmetric(x);
  out.d = float_to_half(b.d);
  std::memcpy(out.scales, b.scale, sizeof out.scales);
  std::memset(out.ql, 0, sizeof out.ql);
  std::memset(out.qh, 0, sizeof out.qh);
  for (int i = 0; i < kBlock; ++i) {
    const int code = static_cast<int>(b.codes[i]) + 32, half = i / 128, part = i % 128 / 32, l = i % 32;
    uint8_t& low = out.ql[half * 64 + (part & 1) * 32 + l];
    uint8_t& high = out.qh[half * 32 + l];
    low = static_cast<uint8_t>(low | (code & 15) << (part < 2 ? 0 : 4));
    high = static_cast<uint8_t>(high | (code >> 4) << (2 * part));
  }
}

template <class Block>
void quantize_blocks(const float* src, void* dst, int64_t n) {
  auto* blocks = static_cast<Block*>(dst);
  for (int64_t i = 0; i < n / kBlock; ++i) quantize(src + i * kBlock, blocks[i]);
}

}  // namespace

void quantize_k_row(TensorType type, const float* src, void* dst, int64_t n) {
  if (type == TensorType::Q4_K) quantize_blocks<BlockQ4_K>(src, dst, n);
  if (type == TensorType::Q5_K) quantize_blocks<BlockQ5_K>(src, dst, n);
  if (type == TensorType::Q6_K) quantize_blocks<BlockQ6_K>(src, dst, n);
}

}  // namespace foveal
