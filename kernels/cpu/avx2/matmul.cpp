// AVX2 with FMA and F16C: two registers hold a panel's 16 rows. Layouts: kernels/cpu/matmul.h.
#include "kernels/cpu/matmul.h"

#include <immintrin.h>

namespace foveal::avx2 {

static inline __m256 half8(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

static inline float max_of(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

static void quantize(const float* x, int64_t x_stride, int count, int64_t cols, int8_t* quads, float* scales,
                     int32_t* sums) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (int t = 0; t < count; ++t) {
    const float* row = x + t * x_stride;
    for (int64_t b = 0; b < cols / 32; ++b) {
      __m256 v[4], most = _mm256_setzero_ps();
      for (int i = 0; i < 4; ++i) {
        v[i] = _mm256_loadu_ps(row + b * 32 + 8 * i);
        most = _mm256_max_ps(most, _mm256_and_ps(v[i], magnitude));
      }
      const float amax = max_of(most);
      const __m256 inverse = _mm256_set1_ps(amax > 0 ? 127.0f / amax : 0.0f);
      scales[b * count + t] = amax / 127.0f;
      for (int h = 0; h < 2; ++h) {
        alignas(32) int32_t q[16];
        for (int i = 0; i < 2; ++i)
          _mm256_store_si256(reinterpret_cast<__m256i*>(q + 8 * i),
                             _mm256_cvtps_epi32(_mm256_mul_ps(v[2 * h + i], inverse)));
        int32_t sum = 0;
        for (int i = 0; i < 16; ++i) {
          quads[((b * 8 + h * 4 + i / 4) * count + t) * 4 + i % 4] = static_cast<int8_t>(q[i]);
          sum += q[i];
        }
        sums[(b * 2 + h) * count + t] = sum;
      }
    }
  }
}

// Sums of four products of unsigned codes and signed activations, exact: 8-bit codes are split into nibbles, since
// pairs of full products don't fit 16 bits.
template <int Bits>
static inline __m256i dot4(__m256i sum, __m256i codes, __m256i quad) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (Bits == 4) return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, quad), ones));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i lo = _mm256_maddubs_epi16(_mm256_and_si256(codes, nibble), quad);
  const __m256i hi = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble), quad);
  const __m256i high = _mm256_madd_epi16(hi, _mm256_set1_epi16(16));
  return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(lo, ones), high));
}

template <int Bits, int Sub, int T>
static inline __attribute__((always_inline)) void quant_half(const QuantPanel& w, const QuantTokens& x,
                                                             const MatmulOut& o, int half) {
  constexpr int kGroup = Bits == 4 ? 256 : 512, kSubs = 32 / Sub, kQuads = Sub / 4;
  const __m256i nibble = _mm256_set1_epi8(15);
  const auto* quads = reinterpret_cast<const int32_t*>(x.quads);
  __m256 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm256_setzero_ps();
  for (int64_t g = 0; g < w.cols / 32; ++g) {
    const uint8_t* p = w.codes + g * kGroup + half * 32;
    for (int s = 0; s < kSubs; ++s) {
      const int64_t sub = g * kSubs + s;
      const __m256 d = half8(w.d + sub * kPanelRows + half * 8);
      const __m256 m = w.m ? half8(w.m + sub * kPanelRows + half * 8) : _mm256_setzero_ps();
      __m256i dots[T];
      for (int t = 0; t < T; ++t) {
        dots[t] = _mm256_set1_epi32(x.sums[Sub == 16][sub * T + t] * -w.offset);
      }
      for (int j = 0; j < kQuads; ++j) {
        const int k = s * kQuads + j;  // quad inside the group, 0..7
        __m256i codes;
        if (Bits == 4) {
          const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64 * (k & 3)));
          codes = _mm256_and_si256(k < 4 ? both : _mm256_srli_epi16(both, 4), nibble);
        } else {
          codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64 * k));
        }
        for (int t = 0; t < T; ++t) dots[t] = dot4<Bits>(dots[t], codes, _mm256_set1_epi32(quads[(g * 8 + k) * T + t]));
      }
      for (int t = 0; t < T; ++t) {
        const float scale = x.scales[g * T + t];
        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t]), _mm256_mul_ps(d, _mm256_set1_ps(scale)), acc[t]);
        if (w.m) acc[t] = _mm256_fnmadd_ps(m, _mm256_set1_ps(x.scaled[Sub == 16][sub * T + t]), acc[t]);
      }
    }
  }
  for (int t = 0; t < T; ++t) {
    alignas(32) float out[8];
    _mm256_store_ps(out, acc[t]);
    for (int r = 0; r < 8 && half * 8 + r < o.n_rows; ++r)
      o.out[t * o.stride + half * 8 + r] = o.bias ? out[r] + o.bias[half * 8 + r] : out[r];
  }
}

template <int Bits, int Sub>
static void quant(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  for (int half = 0; half * 8 < o.n_rows; ++half) switch (x.count) {
      case 16:
        quant_half<Bits, Sub, 16>(w, x, o, half);
        break;
      case 8:
        quant_half<Bits, Sub, 8>(w, x, o, half);
        break;
      case 4:
        quant_half<Bits, Sub, 4>(w, x, o, half);
        break;
      case 2:
        quant_half<Bits, Sub, 2>(w, x, o, half);
        break;
      default:
        quant_half<Bits, Sub, 1>(w, x, o, half);
        break;
    }
}

template <bool Half, int T>
static inline __attribute__((always_inline)) void float_half(const FloatPanel& w, const float* x, const MatmulOut& o,
                                                             int half) {
  __m256 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm256_setzero_ps();
  for (int64_t k = 0; k < w.cols; ++k) {
    const __m256 value = Half ? half8(static_cast<const uint16_t*>(w.values) + k * kPanelRows + half * 8)
                              : _mm256_loadu_ps(static_cast<const float*>(w.values) + k * kPanelRows + half * 8);
    for (int t = 0; t < T; ++t) acc[t] = _mm256_fmadd_ps(value, _mm256_set1_ps(x[k * T + t]), acc[t]);
  }
  for (int t = 0; t < T; ++t) {
    alignas(32) float out[8];
    _mm256_store_ps(out, acc[t]);
    for (int r = 0; r < 8 && half * 8 + r < o.n_rows; ++r)
      o.out[t * o.stride + half * 8 + r] = o.bias ? out[r] + o.bias[half * 8 + r] : out[r];
  }
}

template <bool Half>
static void floats(const FloatPanel& w, const float* x, int count, const MatmulOut& o) {
  for (int half = 0; half * 8 < o.n_rows; ++half) switch (count) {
      case 12:
        float_half<Half, 12>(w, x, o, half);
        break;
      case 8:
        float_half<Half, 8>(w, x, o, half);
        break;
      case 4:
        float_half<Half, 4>(w, x, o, half);
        break;
      case 2:
        float_half<Half, 2>(w, x, o, half);
        break;
      default:
        float_half<Half, 1>(w, x, o, half);
        break;
    }
}

extern const MatmulKernels matmul;
const MatmulKernels matmul = {
    quantize, {{quant<4, 32>, quant<4, 16>}, {quant<8, 32>, quant<8, 16>}}, {floats<false>, floats<true>}};

}  // namespace foveal::avx2
