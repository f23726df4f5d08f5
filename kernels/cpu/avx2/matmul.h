// AVX2 with FMA and F16C: two registers hold a panel's 16 rows. Layouts: kernels/cpu/matmul.h. Compiled twice, into the
// namespace FOVEAL_256: with AVX-VNNI and without.
#include "kernels/cpu/matmul.h"

#include <immintrin.h>

#define FOVEAL_INLINE static inline __attribute__((always_inline))

namespace foveal::FOVEAL_256 {

#include "kernels/cpu/simd/activations.h"

FOVEAL_INLINE __m256 half8(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

FOVEAL_INLINE __m256i load(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// Bits of `high`, moved by `shift` to the left (negative: right) and masked, joined with `low`.
FOVEAL_INLINE __m256i join(__m256i low, __m256i high, int shift, int mask) {
  const __m256i moved = shift >= 0 ? _mm256_slli_epi16(high, shift) : _mm256_srli_epi16(high, -shift);
  return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask))));
}

// The codes of quad j of a group, 8 rows (p points at the half's first row).
template <Codes C>
FOVEAL_INLINE __m256i decode(const uint8_t* p, __m256i table, int j) {
  if (C == kBytes) return load(p + 64 * j);
  const __m256i both = load(p + 64 * (j & 3));
  const __m256i low = _mm256_and_si256(j < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
  if (C == kFive) return join(low, load(p + 256), 4 - j, 16);
  if (C == kSix) return join(low, load(p + 256 + 64 * (j / 4)), 4 - 2 * (j & 3), 48);
  return C == kTable ? _mm256_shuffle_epi8(table, low) : low;
}

FOVEAL_INLINE __m256i table_of(const QuantPanel& w, bool used) {
  if (!used) return _mm256_setzero_si256();
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.table)));
}

FOVEAL_INLINE void put(const MatmulOut& o, int t, int first, __m256 acc) {
  alignas(32) float out[8];
  _mm256_store_ps(out, acc);
  for (int r = 0; r < 8 && first + r < o.n_rows; ++r)
    o.out[t * o.stride + first + r] = o.bias ? out[r] + o.bias[first + r] : out[r];
}

#if defined(__AVXVNNI__)
constexpr bool kDots = true;
#else
constexpr bool kDots = false;
#endif

// dot + the sums of four products, codes (unsigned) times activations (signed): any code.
FOVEAL_INLINE __m256i add_dots(__m256i dot, [[maybe_unused]] __m256i codes, [[maybe_unused]] __m256i four) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(dot, codes, four);
#else
  return dot;
#endif
}

// Without such dot products the largest code decides how sums of products stay inside 16 bits (|activation| <= 127):
// quads that may be added up before widening are 8 for nibbles (15), 4 for five bits (31), 2 for six (63), 1 above.
// Codes past 127 are taken as |code - 128| with the sign moved to the activation; the sums then belong to codes less
// 128.
enum Width { kUpTo15 = 8, kUpTo31 = 4, kUpTo63 = 2, kWide = 1 };

// One group of 32 inputs: the parts of N tokens from t0 on, T in the block, and 8 rows. at(p, j): codes of quad j of
// the group at p.
template <int Sub, bool Mins, Width W, int T, int N, class At>
FOVEAL_INLINE void group_parts(const QuantPanel& w, const uint8_t* p, int half, int64_t g, const QuantTokens& x, int t0,
                               At at, __m256 part[N]) {
  constexpr int kSubs = 32 / Sub, kQuads = Sub / 4;
  constexpr int kRun = static_cast<int>(W) < kQuads ? static_cast<int>(W) : kQuads;  // quads added up in 16 bits
  const __m256i ones = _mm256_set1_epi16(1);
  const int32_t offset = w.offset - (W == kWide && !kDots ? 128 : 0);
  for (int s = 0; s < kSubs; ++s) {
    const int64_t sub = g * kSubs + s, sums = sub * T + t0;
    __m256i dot[N];
    for (int i = 0; i < N; ++i) dot[i] = _mm256_set1_epi32(x.sums[Sub == 16][sums + i] * -offset);
    for (int j = 0; j < kQuads && kDots; ++j) {
      const __m256i code = at(p, s * kQuads + j);
      const auto* quad = reinterpret_cast<const int32_t*>(x.quads) + (g * 8 + s * kQuads + j) * T + t0;
      for (int i = 0; i < N; ++i) dot[i] = add_dots(dot[i], code, _mm256_set1_epi32(quad[i]));
    }
    for (int j0 = 0; j0 < kQuads && !kDots; j0 += kRun) {
      __m256i run[N];
      for (int i = 0; i < N; ++i) run[i] = _mm256_setzero_si256();
      for (int j = j0; j < j0 + kRun; ++j) {
        const __m256i code = at(p, s * kQuads + j);
        const __m256i less = _mm256_xor_si256(code, _mm256_set1_epi8(-128)), size = _mm256_abs_epi8(less);
        const auto* quad = reinterpret_cast<const int32_t*>(x.quads) + (g * 8 + s * kQuads + j) * T + t0;
        for (int i = 0; i < N; ++i) {
          const __m256i four = _mm256_set1_epi32(quad[i]);
          const __m256i products =
              W == kWide ? _mm256_maddubs_epi16(size, _mm256_sign_epi8(four, less)) : _mm256_maddubs_epi16(code, four);
          run[i] = _mm256_add_epi16(run[i], products);
        }
      }
      for (int i = 0; i < N; ++i) dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(run[i], ones));
    }
    const __m256 d = half8(w.d + sub * kPanelRows + half * 8);
    for (int i = 0; i < N; ++i) {
      const __m256 f = _mm256_cvtepi32_ps(dot[i]);
      part[i] = s == 0 ? _mm256_mul_ps(f, d) : _mm256_fmadd_ps(f, d, part[i]);
      if (Mins)
        part[i] = _mm256_fnmadd_ps(half8(w.m + sub * kPanelRows + half * 8),
                                   _mm256_set1_ps(x.fsums[Sub == 16][sums + i]), part[i]);
    }
  }
}

constexpr int64_t kAhead = 4096;  // bytes that decode asks for in advance, past the panel's end: the next one follows

// One panel's sums between ranges of inputs: token t's at sums + t * stride.
struct Between {
  float* sums;
  int64_t stride;
  bool first, last;
};
constexpr Between kWhole{nullptr, 0, true, true};
static Between between(const RangeSums& r, int panel, int n_panels) {
  return {r.sums + panel * kPanelRows, n_panels * kPanelRows, r.first, r.last};
}

// T tokens against the panel's halves [first, first + H).
template <int Sub, bool Mins, Width W, int T, int H, class At>
FOVEAL_INLINE void halves_block(const QuantPanel& w, int64_t group_bytes, const QuantTokens& x, const Between& b,
                                const MatmulOut& o, int first, At at) {
  constexpr int kChains = T < 4 ? T : 4;
  __m256 acc[H][T];
  for (int h = 0; h < H; ++h)
    for (int t = 0; t < T; ++t)
      acc[h][t] = b.first ? _mm256_setzero_ps() : _mm256_loadu_ps(b.sums + t * b.stride + (first + h) * 8);
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    const uint8_t* p = w.codes + g * group_bytes;
    if (H == 2)
      for (int64_t line = 0; line < group_bytes; line += 64) _mm_prefetch(p + kAhead + line, _MM_HINT_T0);
    for (int h = 0; h < H; ++h)
      for (int t0 = 0; t0 < T; t0 += kChains) {
        __m256 part[kChains];
        group_parts<Sub, Mins, W, T, kChains>(w, p + (first + h) * 32, first + h, g, x, t0, at, part);
        for (int i = 0; i < kChains; ++i)
          acc[h][t0 + i] = _mm256_fmadd_ps(part[i], _mm256_set1_ps(x.scales[g * T + t0 + i]), acc[h][t0 + i]);
      }
  }
  for (int h = 0; h < H; ++h) {
    const int row = (first + h) * 8;
    for (int t = 0; t < T; ++t) {
      if (!b.last) {
        _mm256_storeu_ps(b.sums + t * b.stride + row, acc[h][t]);
      } else if (t < x.used) {
        put(o, t, row, _mm256_mul_ps(acc[h][t], _mm256_loadu_ps(w.units + row)));
      }
    }
  }
}

// One or two tokens stream the panel once; more take it by halves, whose sums fill the registers.
template <Codes C, Width W, int Sub, bool Mins>
static void panel(const QuantPanel& w, const QuantTokens& x, const Between& b, const MatmulOut& o) {
  const __m256i table = table_of(w, C == kTable);
  const auto at = [table](const uint8_t* p, int j) __attribute__((always_inline)) {
    return decode<C>(p, table, j);
  };
  if (x.count == 1) return halves_block<Sub, Mins, W, 1, 2>(w, code_bytes(C), x, b, o, 0, at);
  if (x.count == 2) return halves_block<Sub, Mins, W, 2, 2>(w, code_bytes(C), x, b, o, 0, at);
  for (int half = 0; half * 8 < o.n_rows; ++half) {
    if (x.count == 4) {
      halves_block<Sub, Mins, W, 4, 1>(w, code_bytes(C), x, b, o, half, at);
    } else {
      halves_block<Sub, Mins, W, 8, 1>(w, code_bytes(C), x, b, o, half, at);
    }
  }
}

template <Codes C, int Sub>
static void few(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  constexpr Width kWidth = C == kNibbles ? kUpTo15 : C == kFive ? kUpTo31 : C == kSix ? kUpTo63 : kWide;
  return w.m ? panel<C, kWidth, Sub, true>(w, x, kWhole, o) : panel<C, kWidth, Sub, false>(w, x, kWhole, o);
}

template <Codes C>
static void expand(const QuantPanel& w, uint8_t* bytes) {
  const __m256i table = table_of(w, C == kTable);
  for (int64_t g = 0; g < w.cols / 32; ++g)
    for (int half = 0; half < 2; ++half)
      for (int j = 0; j < 8; ++j)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + g * 512 + 64 * j + 32 * half),
                            decode<C>(w.codes + g * code_bytes(C) + 32 * half, table, j));
}

// The share of panel p of a result that spans several.
static MatmulOut panel_out(const MatmulOut& o, int p) {
  const int first = p * static_cast<int>(kPanelRows), left = o.n_rows - first;
  return {o.out + first, o.stride, left < 16 ? left : 16, o.bias ? o.bias + first : nullptr};
}

template <Width W, int Sub>
static void many_of(const QuantPanel& w, const QuantTokens& x, const Between& b, const MatmulOut& o) {
  return w.m ? panel<kBytes, W, Sub, true>(w, x, b, o) : panel<kBytes, W, Sub, false>(w, x, b, o);
}

template <int Sub>
static void many(const QuantPanel* w, int n_panels, const QuantTokens& x, const RangeSums& r, const MatmulOut& o) {
  for (int p = 0; p < n_panels; ++p) {
    const MatmulOut to = panel_out(o, p);
    const Between b = between(r, p, n_panels);
    switch (w[p].form) {
      case kNibbles:
        many_of<kUpTo15, Sub>(w[p], x, b, to);
        break;
      case kFive:
        many_of<kUpTo31, Sub>(w[p], x, b, to);
        break;
      case kSix:
        many_of<kUpTo63, Sub>(w[p], x, b, to);
        break;
      default:
        many_of<kWide, Sub>(w[p], x, b, to);
        break;
    }
  }
}

// Values i .. i+7 as float32.
template <Floats F>
FOVEAL_INLINE __m256 values8(const void* values, int64_t i) {
  if (F == kF32) return _mm256_loadu_ps(static_cast<const float*>(values) + i);
  const auto* bits = static_cast<const uint16_t*>(values) + i;
  if (F == kF16) return half8(bits);
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bits)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

template <Floats F, int T>
FOVEAL_INLINE void float_half(const void* panel, const FloatTokens& x, const Between& b, const MatmulOut& o, int half) {
  __m256 acc[T];
  for (int t = 0; t < T; ++t)
    acc[t] = b.first ? _mm256_setzero_ps() : _mm256_loadu_ps(b.sums + t * b.stride + half * 8);
  for (int64_t k = 0; k < x.n_k; ++k) {
    const __m256 value = values8<F>(panel, k * kPanelRows + half * 8);
    for (int t = 0; t < T; ++t) acc[t] = _mm256_fmadd_ps(value, _mm256_set1_ps(x.x[k * T + t]), acc[t]);
  }
  for (int t = 0; t < T; ++t) {
    if (!b.last) {
      _mm256_storeu_ps(b.sums + t * b.stride + half * 8, acc[t]);
    } else if (t < x.used) {
      put(o, t, half * 8, acc[t]);
    }
  }
}

template <Floats F>
static void float_panel(const void* panel, const FloatTokens& x, const Between& b, const MatmulOut& o) {
  for (int half = 0; half * 8 < o.n_rows; ++half) switch (x.count) {
      case 12:
        float_half<F, 12>(panel, x, b, o, half);
        break;
      case 8:
        float_half<F, 8>(panel, x, b, o, half);
        break;
      case 4:
        float_half<F, 4>(panel, x, b, o, half);
        break;
      case 2:
        float_half<F, 2>(panel, x, b, o, half);
        break;
      default:
        float_half<F, 1>(panel, x, b, o, half);
        break;
    }
}

template <Floats F>
static void few_floats(const void* panel, const FloatTokens& x, const MatmulOut& o) {
  return float_panel<F>(panel, x, kWhole, o);
}

// n is a multiple of 8.
template <Floats F>
static void widen(const void* values, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 8) _mm256_storeu_ps(to + i, values8<F>(values, i));
}

static void many_floats(const float* const* panels, int n_panels, const FloatTokens& x, const RangeSums& r,
                        const MatmulOut& o) {
  for (int p = 0; p < n_panels; ++p) float_panel<kF32>(panels[p], x, between(r, p, n_panels), panel_out(o, p));
}

#include "kernels/cpu/matmul_table.inc"

}  // namespace foveal::FOVEAL_256
