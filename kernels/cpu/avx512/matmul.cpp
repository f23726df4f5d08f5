// AVX-512 with VNNI: one register holds a panel's 16 rows. Layouts: kernels/cpu/matmul.h.
#include "kernels/cpu/matmul.h"

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics pass deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace foveal::avx512 {

static inline __m512 half16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

static void quantize(const float* x, int64_t x_stride, int count, int64_t cols, int8_t* quads, float* scales,
                     int32_t* sums) {
  for (int t = 0; t < count; ++t) {
    const float* row = x + t * x_stride;
    for (int64_t b = 0; b < cols / 32; ++b) {
      const __m512 lo = _mm512_loadu_ps(row + b * 32), hi = _mm512_loadu_ps(row + b * 32 + 16);
      const float amax = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi)));
      const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
      scales[b * count + t] = amax / 127.0f;
      const __m512 scale = _mm512_set1_ps(inverse);
      const __m512 halves[2] = {lo, hi};
      for (int h = 0; h < 2; ++h) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(halves[h], scale));
        sums[(b * 2 + h) * count + t] = _mm512_reduce_add_epi32(q);
        alignas(16) int32_t bytes[4];
        _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(q));
        for (int j = 0; j < 4; ++j)
          *reinterpret_cast<int32_t*>(quads + ((b * 8 + h * 4 + j) * count + t) * 4) = bytes[j];
      }
    }
  }
}

// Tokens T of one block against one panel. Per sub-block: exact integer dot products, then two roundings.
template <int Bits, int Sub, int T>
static inline __attribute__((always_inline)) void quant_block(const QuantPanel& w, const QuantTokens& x,
                                                              const MatmulOut& o) {
  constexpr int kGroup = Bits == 4 ? 256 : 512, kSubs = 32 / Sub, kQuads = Sub / 4;
  const __m512i nibble = _mm512_set1_epi8(15);
  const auto* quads = reinterpret_cast<const int32_t*>(x.quads);
  __m512 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm512_setzero_ps();
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    const uint8_t* p = w.codes + g * kGroup;
    __m512i codes[8];
    if (Bits == 4) {
      for (int j = 0; j < 4; ++j) {
        const __m512i both = _mm512_loadu_si512(p + 64 * j);
        codes[j] = _mm512_and_si512(both, nibble);
        codes[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
      }
    } else {
      for (int j = 0; j < 8; ++j) codes[j] = _mm512_loadu_si512(p + 64 * j);
    }
    for (int s = 0; s < kSubs; ++s) {
      const int64_t sub = g * kSubs + s;
      const __m512 d = half16(w.d + sub * kPanelRows);
      const __m512 m = w.m ? half16(w.m + sub * kPanelRows) : _mm512_setzero_ps();
      const int32_t* sums = x.sums[Sub == 16] + sub * T;
      const float* scaled = x.scaled[Sub == 16] + sub * T;
      constexpr int kChains = T < 4 ? T : 4;  // dot products in flight at a time
      for (int t0 = 0; t0 < T; t0 += kChains) {
        const int32_t* quad = quads + (g * 8 + s * kQuads) * T + t0;
        __m512i dot[kChains];
        for (int i = 0; i < kChains; ++i) dot[i] = _mm512_set1_epi32(sums[t0 + i] * -w.offset);
        for (int j = 0; j < kQuads; ++j)
          for (int i = 0; i < kChains; ++i)
            dot[i] = _mm512_dpbusd_epi32(dot[i], codes[s * kQuads + j], _mm512_set1_epi32(quad[j * T + i]));
        for (int i = 0; i < kChains; ++i) {
          const int t = t0 + i;
          const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x.scales[g * T + t]));
          acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i]), scale, acc[t]);
          if (w.m) acc[t] = _mm512_fnmadd_ps(m, _mm512_set1_ps(scaled[t]), acc[t]);
        }
      }
    }
  }
  const __mmask16 rows = static_cast<__mmask16>((1u << o.n_rows) - 1);
  for (int t = 0; t < T; ++t) {
    if (o.bias) acc[t] = _mm512_add_ps(acc[t], _mm512_maskz_loadu_ps(rows, o.bias));
    _mm512_mask_storeu_ps(o.out + t * o.stride, rows, acc[t]);
  }
}

template <int Bits, int Sub>
static void quant(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  switch (x.count) {
    case 16:
      return quant_block<Bits, Sub, 16>(w, x, o);
    case 8:
      return quant_block<Bits, Sub, 8>(w, x, o);
    case 4:
      return quant_block<Bits, Sub, 4>(w, x, o);
    case 2:
      return quant_block<Bits, Sub, 2>(w, x, o);
    default:
      return quant_block<Bits, Sub, 1>(w, x, o);
  }
}

template <bool Half, int T>
static inline __attribute__((always_inline)) void float_block(const FloatPanel& w, const float* x, const MatmulOut& o) {
  __m512 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm512_setzero_ps();
  for (int64_t k = 0; k < w.cols; ++k) {
    const __m512 value = Half ? half16(static_cast<const uint16_t*>(w.values) + k * kPanelRows)
                              : _mm512_loadu_ps(static_cast<const float*>(w.values) + k * kPanelRows);
    for (int t = 0; t < T; ++t) acc[t] = _mm512_fmadd_ps(value, _mm512_set1_ps(x[k * T + t]), acc[t]);
  }
  const __mmask16 rows = static_cast<__mmask16>((1u << o.n_rows) - 1);
  for (int t = 0; t < T; ++t) {
    if (o.bias) acc[t] = _mm512_add_ps(acc[t], _mm512_maskz_loadu_ps(rows, o.bias));
    _mm512_mask_storeu_ps(o.out + t * o.stride, rows, acc[t]);
  }
}

template <bool Half>
static void floats(const FloatPanel& w, const float* x, int count, const MatmulOut& o) {
  switch (count) {
    case 12:
      return float_block<Half, 12>(w, x, o);
    case 8:
      return float_block<Half, 8>(w, x, o);
    case 4:
      return float_block<Half, 4>(w, x, o);
    case 2:
      return float_block<Half, 2>(w, x, o);
    default:
      return float_block<Half, 1>(w, x, o);
  }
}

extern const MatmulKernels matmul;
const MatmulKernels matmul = {
    quantize, {{quant<4, 32>, quant<4, 16>}, {quant<8, 32>, quant<8, 16>}}, {floats<false>, floats<true>}};

}  // namespace foveal::avx512
