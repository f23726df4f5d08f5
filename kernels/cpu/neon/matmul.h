// NEON with dot products: a register holds 4 of a panel's 16 rows, 4 codes each. Layouts: kernels/cpu/matmul.h.
// Compiled twice, into the namespace FOVEAL_NEON: with matrix products of bytes (i8mm) and without.
#include "kernels/cpu/matmul.h"

#include <arm_neon.h>

#include <cstring>
#include <utility>

#define FOVEAL_INLINE static inline __attribute__((always_inline))

namespace foveal::FOVEAL_NEON {

// ---- activations

static void quantize(const float* x, int64_t x_stride, int64_t cols, const QuantTokens& to) {
  const int64_t n = to.count;
  for (int64_t t = 0; t < to.used; ++t)
    for (int64_t b = 0; b < cols / 32; ++b) {
      const float* in = x + t * x_stride + b * 32;
      float32x4_t most = vabsq_f32(vld1q_f32(in));  // not vmaxnm: not-a-number must not get lost
      for (int i = 4; i < 32; i += 4) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(in + i)));
      const float amax = vmaxvq_f32(most);
      to.scales[b * n + t] = amax / 127.0f;
      const float32x4_t inverse = vdupq_n_f32(amax > 0 ? 127.0f / amax : 0.0f);
      int32_t sums[2];
      for (int half = 0; half < 2; ++half) {
        const auto four = [&](int i) {
          return vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(in + 16 * half + 4 * i), inverse)));
        };
        const int8x16_t q =
            vcombine_s8(vqmovn_s16(vcombine_s16(four(0), four(1))), vqmovn_s16(vcombine_s16(four(2), four(3))));
        int8_t quads[16];
        vst1q_s8(quads, q);
        int8_t* out = to.quads + ((b * 8 + half * 4) * n + t) * 4;
        for (int j = 0; j < 4; ++j) std::memcpy(out + j * n * 4, quads + j * 4, 4);
        sums[half] = vaddvq_s32(vdotq_s32(vdupq_n_s32(0), q, vdupq_n_s8(1)));
        to.sums[1][(2 * b + half) * n + t] = sums[half];
        to.fsums[1][(2 * b + half) * n + t] = static_cast<float>(sums[half]);
      }
      to.sums[0][b * n + t] = sums[0] + sums[1];
      to.fsums[0][b * n + t] = static_cast<float>(sums[0] + sums[1]);
    }
}

// Blocks of 4 tokens by 4 inputs are transposed in registers; the rest goes one by one.
static void interleave(const float* x, int64_t x_stride, int count, int used, int64_t cols, float* to) {
  const int64_t whole = count >= 4 && used == count ? cols / 4 * 4 : 0;
  for (int64_t k = 0; k < whole; k += 4)
    for (int t = 0; t < count; t += 4) {
      const float* in = x + t * x_stride + k;
      const float32x4_t a = vld1q_f32(in), b = vld1q_f32(in + x_stride);
      const float32x4_t c = vld1q_f32(in + 2 * x_stride), d = vld1q_f32(in + 3 * x_stride);
      const float32x4_t ac_low = vzip1q_f32(a, c), ac_high = vzip2q_f32(a, c);
      const float32x4_t bd_low = vzip1q_f32(b, d), bd_high = vzip2q_f32(b, d);
      vst1q_f32(to + (k + 0) * count + t, vzip1q_f32(ac_low, bd_low));
      vst1q_f32(to + (k + 1) * count + t, vzip2q_f32(ac_low, bd_low));
      vst1q_f32(to + (k + 2) * count + t, vzip1q_f32(ac_high, bd_high));
      vst1q_f32(to + (k + 3) * count + t, vzip2q_f32(ac_high, bd_high));
    }
  for (int64_t k = whole; k < cols; ++k)
    for (int t = 0; t < count; ++t) to[k * count + t] = t < used ? x[t * x_stride + k] : 0;
}

// ---- pieces of both products

FOVEAL_INLINE float32x4_t half4(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

// A token's value for the products below lies in lane `token % 4` of a register; where a block has fewer than 4
// tokens, the lanes past the last hold anything.
template <int T>
FOVEAL_INLINE float32x4_t tokens4(const float* p) {
  if constexpr (T >= 4) return vld1q_f32(p);
  if constexpr (T == 2) return vcombine_f32(vld1_f32(p), vdup_n_f32(0));
  return vld1q_dup_f32(p);
}

template <int T>
FOVEAL_INLINE int8x16_t quads4(const int8_t* p) {  // the 4 int8 of each token
  if constexpr (T >= 4) return vld1q_s8(p);
  if constexpr (T == 2) return vcombine_s8(vld1_s8(p), vdup_n_s8(0));
  int32_t word;
  std::memcpy(&word, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

template <int lane>
FOVEAL_INLINE int32x4_t add_dot(int32x4_t acc, int8x16_t codes, int8x16_t quads) {
  return vdotq_laneq_s32(acc, codes, quads, lane);
}

template <int lane>
FOVEAL_INLINE float32x4_t add_product(float32x4_t acc, float32x4_t a, float32x4_t tokens) {
  return vfmaq_laneq_f32(acc, a, tokens, lane);
}

template <int lane>
FOVEAL_INLINE float32x4_t subtract_product(float32x4_t acc, float32x4_t a, float32x4_t tokens) {
  return vfmsq_laneq_f32(acc, a, tokens, lane);
}

// f(integral_constant<int, i>) for i = 0 .. n - 1: the lanes above are immediates.
template <class F, int... i>
FOVEAL_INLINE void each_of(std::integer_sequence<int, i...>, F f) {
  (f(std::integral_constant<int, i>()), ...);
}
template <int n, class F>
FOVEAL_INLINE void each(F f) {
  each_of(std::make_integer_sequence<int, n>(), f);
}

FOVEAL_INLINE void put(const MatmulOut& o, int t, int first, float32x4_t acc) {
  float out[4];
  vst1q_f32(out, acc);
  for (int r = 0; r < 4 && first + r < o.n_rows; ++r)
    o.out[t * o.stride + first + r] = o.bias ? out[r] + o.bias[first + r] : out[r];
}

// ---- quantised products

// The codes of quad j of a group, 4 rows (p points at the first row's).
template <Codes C>
FOVEAL_INLINE uint8x16_t decode(const uint8_t* p, uint8x16_t table, int j) {
  if (C == kBytes) return vld1q_u8(p + 64 * j);
  const uint8x16_t both = vld1q_u8(p + 64 * (j & 3));
  const uint8x16_t low = j < 4 ? vandq_u8(both, vdupq_n_u8(15)) : vshrq_n_u8(both, 4);
  const auto joined = [low](const uint8_t* high, int shift, uint8_t mask) {  // shift < 0: to the right
    const uint8x16_t moved = vshlq_u8(vld1q_u8(high), vdupq_n_s8(static_cast<int8_t>(shift)));
    return vorrq_u8(low, vandq_u8(moved, vdupq_n_u8(mask)));
  };
  if (C == kFive) return joined(p + 256, 4 - j, 16);
  if (C == kSix) return joined(p + 256 + 64 * (j / 4), 4 - 2 * (j & 3), 48);
  return C == kTable ? vqtbl1q_u8(table, low) : low;
}

FOVEAL_INLINE uint8x16_t table_of(const QuantPanel& w, bool used) {
  return used ? vld1q_u8(w.table) : vdupq_n_u8(0);
}

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

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool kMatrices = true;

// 2 rows of 8 codes times 2 tokens of 8 activations: row 0 with both tokens, row 1 with both.
FOVEAL_INLINE int32x4_t add_matrix(int32x4_t sums, uint8x16_t rows, int8x16_t tokens) {
  return vusmmlaq_s32(sums, rows, tokens);
}
#else
constexpr bool kMatrices = false;

FOVEAL_INLINE int32x4_t add_matrix(int32x4_t sums, uint8x16_t, int8x16_t) {
  return sums;
}
#endif

FOVEAL_INLINE int32x4_t low_words(int32x4_t a, int32x4_t b) {
  return vzip1q_s32(a, b);
}
FOVEAL_INLINE int32x4_t high_words(int32x4_t a, int32x4_t b) {
  return vzip2q_s32(a, b);
}

// The dot products of a sub-block by matrices of 2 x 8: dot[token][4 rows]. Two quads of a row (a token) side by side
// make its 8 inputs.
template <Codes C, int Quads, int N, int R>
FOVEAL_INLINE void matrix_dots(const uint8_t* p, uint8x16_t table, int first_quad, const int8_t* tokens,
                               int64_t quad_bytes, const int32_t* sums, int32_t offset, int32x4_t dot[N][R]) {
  int32x4_t tile[N / 2][R][2];  // [pair of tokens][4 rows][pair of rows]
  for (int i = 0; i < N / 2; ++i) {
    const int32_t starts[4] = {sums[2 * i] * -offset, sums[2 * i + 1] * -offset, sums[2 * i] * -offset,
                               sums[2 * i + 1] * -offset};
    for (int r = 0; r < R; ++r) tile[i][r][0] = tile[i][r][1] = vld1q_s32(starts);
  }
#pragma GCC unroll 4
  for (int j = 0; j < Quads; j += 2) {
    const auto at = [&](int quad) { return vreinterpretq_s32_s8(quads4<N>(tokens + quad * quad_bytes)); };
    const int32x4_t x0 = at(j), x1 = at(j + 1);
    const int8x16_t pair[2] = {vreinterpretq_s8_s32(low_words(x0, x1)), vreinterpretq_s8_s32(high_words(x0, x1))};
    for (int r = 0; r < R; ++r) {
      const int32x4_t c0 = vreinterpretq_s32_u8(decode<C>(p + 16 * r, table, first_quad + j));
      const int32x4_t c1 = vreinterpretq_s32_u8(decode<C>(p + 16 * r, table, first_quad + j + 1));
      const uint8x16_t low = vreinterpretq_u8_s32(low_words(c0, c1)), high = vreinterpretq_u8_s32(high_words(c0, c1));
      for (int i = 0; i < N / 2; ++i) {
        tile[i][r][0] = add_matrix(tile[i][r][0], low, pair[i]);
        tile[i][r][1] = add_matrix(tile[i][r][1], high, pair[i]);
      }
    }
  }
  for (int i = 0; i < N / 2; ++i)
    for (int r = 0; r < R; ++r) {
      dot[2 * i][r] = vuzp1q_s32(tile[i][r][0], tile[i][r][1]);
      dot[2 * i + 1][r] = vuzp2q_s32(tile[i][r][0], tile[i][r][1]);
    }
}

// T tokens against 4 R rows. Dot products are signed: codes up to 127 are taken as they are, wider ones less 128, which
// comes back as 128 times the sum of the activations.
template <Codes C, bool Wide, int Sub, bool Mins, int T, int R>
FOVEAL_INLINE void rows_block(const QuantPanel& w, const QuantTokens& x, const Between& b, const MatmulOut& o,
                              int first) {
  constexpr int kSubs = 32 / Sub, kQuads = Sub / 4, kChains = T < 4 ? T : 4;
  const uint8x16_t table = table_of(w, C == kTable);
  constexpr bool kByMatrices = kMatrices && kChains >= 2;  // these take unsigned codes as they are
  const int32_t offset = w.offset - (Wide && !kByMatrices ? 128 : 0);
  float32x4_t acc[T][R];
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) acc[t][r] = b.first ? vdupq_n_f32(0) : vld1q_f32(b.sums + t * b.stride + first + 4 * r);
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    const uint8_t* p = w.codes + g * code_bytes(C) + first * 4;
    for (int t0 = 0; t0 < T; t0 += kChains) {
      float32x4_t part[kChains][R];
      for (int s = 0; s < kSubs; ++s) {
        const int64_t sub = g * kSubs + s, sums = sub * T + t0;
        int32x4_t dot[kChains][R];
        const int8_t* tokens = x.quads + ((g * 8 + s * kQuads) * T + t0) * 4;
        if constexpr (kByMatrices)
          matrix_dots<C, kQuads, kChains, R>(p, table, s * kQuads, tokens, T * 4, x.sums[Sub == 16] + sums, offset,
                                             dot);
        for (int i = 0; i < kChains && !kByMatrices; ++i)
          for (int r = 0; r < R; ++r) dot[i][r] = vdupq_n_s32(x.sums[Sub == 16][sums + i] * -offset);
#pragma GCC unroll 8
        for (int j = 0; j < kQuads && !kByMatrices; ++j) {
          const int8x16_t quads = quads4<kChains>(tokens + j * T * 4);
          for (int r = 0; r < R; ++r) {
            const uint8x16_t code = decode<C>(p + 16 * r, table, s * kQuads + j);
            const int8x16_t as_signed = vreinterpretq_s8_u8(Wide ? veorq_u8(code, vdupq_n_u8(128)) : code);
            each<kChains>([&](auto i) { dot[i][r] = add_dot<i>(dot[i][r], as_signed, quads); });
          }
        }
        const float32x4_t fsums = Mins ? tokens4<kChains>(x.fsums[Sub == 16] + sums) : vdupq_n_f32(0);
        for (int r = 0; r < R; ++r) {
          const int64_t at = sub * kPanelRows + first + 4 * r;
          const float32x4_t d = half4(w.d + at), m = Mins ? half4(w.m + at) : d;
          each<kChains>([&](auto i) {
            const float32x4_t f = vcvtq_f32_s32(dot[i][r]);
            part[i][r] = s == 0 ? vmulq_f32(f, d) : vfmaq_f32(part[i][r], f, d);
            if (Mins) part[i][r] = subtract_product<i>(part[i][r], m, fsums);
          });
        }
      }
      const float32x4_t scales = tokens4<kChains>(x.scales + g * T + t0);
      for (int r = 0; r < R; ++r)
        each<kChains>([&](auto i) { acc[t0 + i][r] = add_product<i>(acc[t0 + i][r], part[i][r], scales); });
    }
  }
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) {
      const int row = first + 4 * r;
      if (!b.last) {
        vst1q_f32(b.sums + t * b.stride + row, acc[t][r]);
      } else if (t < x.used) {
        put(o, t, row, vmulq_f32(acc[t][r], vld1q_f32(w.units + row)));
      }
    }
}

// Few tokens: the whole panel at once. More: 8 rows, so that a register tile of 4 tokens fits.
template <Codes C, bool Wide, int Sub, bool Mins>
static void panel(const QuantPanel& w, const QuantTokens& x, const Between& b, const MatmulOut& o) {
  if (x.count == 1) return rows_block<C, Wide, Sub, Mins, 1, 4>(w, x, b, o, 0);
  if (x.count == 2) return rows_block<C, Wide, Sub, Mins, 2, 4>(w, x, b, o, 0);
  for (int first = 0; first < o.n_rows; first += 8) {
    if (x.count == 4) {
      rows_block<C, Wide, Sub, Mins, 4, 2>(w, x, b, o, first);
    } else {
      rows_block<C, Wide, Sub, Mins, 8, 2>(w, x, b, o, first);
    }
  }
}

template <Codes C, int Sub>
static void few(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  constexpr bool kWide = C == kBytes || C == kTable;
  return w.m ? panel<C, kWide, Sub, true>(w, x, kWhole, o) : panel<C, kWide, Sub, false>(w, x, kWhole, o);
}

template <Codes C>
static void expand(const QuantPanel& w, uint8_t* bytes) {
  const uint8x16_t table = table_of(w, C == kTable);
  for (int64_t g = 0; g < w.cols / 32; ++g)
    for (int j = 0; j < 8; ++j)
      for (int at = 0; at < 64; at += 16)
        vst1q_u8(bytes + g * 512 + 64 * j + at, decode<C>(w.codes + g * code_bytes(C) + at, table, j));
}

template <bool Wide, int Sub>
static void many_of(const QuantPanel& w, const QuantTokens& x, const Between& b, const MatmulOut& o) {
  return w.m ? panel<kBytes, Wide, Sub, true>(w, x, b, o) : panel<kBytes, Wide, Sub, false>(w, x, b, o);
}

// The share of panel p of a result that spans several.
static MatmulOut panel_out(const MatmulOut& o, int p) {
  const int first = p * static_cast<int>(kPanelRows), left = o.n_rows - first;
  return {o.out + first, o.stride, left < 16 ? left : 16, o.bias ? o.bias + first : nullptr};
}

template <int Sub>
static void many(const QuantPanel* w, int n_panels, const QuantTokens& x, const RangeSums& r, const MatmulOut& o) {
  for (int p = 0; p < n_panels; ++p) {
    const bool wide = w[p].form == kBytes || w[p].form == kTable;
    const Between b = between(r, p, n_panels);
    wide ? many_of<true, Sub>(w[p], x, b, panel_out(o, p)) : many_of<false, Sub>(w[p], x, b, panel_out(o, p));
  }
}

// ---- float products

// Values i .. i+3 as float32.
template <Floats F>
FOVEAL_INLINE float32x4_t values4(const void* values, int64_t i) {
  if (F == kF32) return vld1q_f32(static_cast<const float*>(values) + i);
  const auto* bits = static_cast<const uint16_t*>(values) + i;
  return F == kF16 ? half4(bits) : vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bits), 16));
}

// T tokens against 4 R rows.
template <Floats F, int T, int R>
FOVEAL_INLINE void float_rows(const void* panel, const FloatTokens& x, const Between& b, const MatmulOut& o,
                              int first) {
  constexpr int kLanes = T < 4 ? T : 4;
  float32x4_t acc[T][R];
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) acc[t][r] = b.first ? vdupq_n_f32(0) : vld1q_f32(b.sums + t * b.stride + first + 4 * r);
  for (int64_t k = 0; k < x.n_k; ++k) {
    float32x4_t value[R];
    for (int r = 0; r < R; ++r) value[r] = values4<F>(panel, k * kPanelRows + first + 4 * r);
    for (int t0 = 0; t0 < T; t0 += kLanes) {
      const float32x4_t tokens = tokens4<kLanes>(x.x + k * T + t0);
      for (int r = 0; r < R; ++r)
        each<kLanes>([&](auto i) { acc[t0 + i][r] = add_product<i>(acc[t0 + i][r], value[r], tokens); });
    }
  }
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) {
      const int row = first + 4 * r;
      if (!b.last) {
        vst1q_f32(b.sums + t * b.stride + row, acc[t][r]);
      } else if (t < x.used) {
        put(o, t, row, acc[t][r]);
      }
    }
}

template <Floats F>
static void float_panel(const void* panel, const FloatTokens& x, const Between& b, const MatmulOut& o) {
  if (x.count == 1) return float_rows<F, 1, 4>(panel, x, b, o, 0);
  if (x.count == 2) return float_rows<F, 2, 4>(panel, x, b, o, 0);
  if (x.count == 4) return float_rows<F, 4, 4>(panel, x, b, o, 0);
  for (int first = 0; first < o.n_rows; first += 8) {
    if (x.count == 8) {
      float_rows<F, 8, 2>(panel, x, b, o, first);
    } else {
      float_rows<F, 12, 2>(panel, x, b, o, first);
    }
  }
}

template <Floats F>
static void few_floats(const void* panel, const FloatTokens& x, const MatmulOut& o) {
  return float_panel<F>(panel, x, kWhole, o);
}

// n is a multiple of 4.
template <Floats F>
static void widen(const void* values, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 4) vst1q_f32(to + i, values4<F>(values, i));
}

static void many_floats(const float* const* panels, int n_panels, const FloatTokens& x, const RangeSums& r,
                        const MatmulOut& o) {
  for (int p = 0; p < n_panels; ++p) float_panel<kF32>(panels[p], x, between(r, p, n_panels), panel_out(o, p));
}

#include "kernels/cpu/matmul_table.inc"

}  // namespace foveal::FOVEAL_NEON
