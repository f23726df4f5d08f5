// The vector vocabulary of kernels/cpu/simd on AVX-512: 16 floats, 32 registers, masks for tails.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace foveal::avx512 {
namespace {

using vf = __m512;     // `lanes` floats
using vi = __m512i;    // `lanes` int32
using vd = __m512d;    // lanes / 2 doubles
using vm = __mmask16;  // one truth value a lane
constexpr int lanes = 16;
constexpr int tile_rows = 8;  // register tile: tile_rows x tile_vectors accumulators
constexpr int tile_vectors = 3;
constexpr int decode_heads = 4;  // query heads per pass over V in decode

inline __mmask16 first_n(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1);
}  // n <= 16

inline vf zero() {
  return _mm512_setzero_ps();
}
inline vf set(float x) {
  return _mm512_set1_ps(x);
}
inline vf load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void store(float* p, vf x) {
  _mm512_storeu_ps(p, x);
}
// The first n lanes, n in [0, lanes]; the others read as 0 and aren't written.
inline vf load_n(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_n(n), p);
}
inline void store_n(float* p, vf x, int64_t n) {
  _mm512_mask_storeu_ps(p, first_n(n), x);
}

inline vf add(vf a, vf b) {
  return _mm512_add_ps(a, b);
}
inline vf sub(vf a, vf b) {
  return _mm512_sub_ps(a, b);
}
inline vf mul(vf a, vf b) {
  return _mm512_mul_ps(a, b);
}
inline vf div(vf a, vf b) {
  return _mm512_div_ps(a, b);
}
inline vf fma(vf a, vf b, vf c) {
  return _mm512_fmadd_ps(a, b, c);
}  // a b + c
inline vf fnma(vf a, vf b, vf c) {
  return _mm512_fnmadd_ps(a, b, c);
}  // c - a b
// When one operand is NaN the second comes back.
inline vf min(vf a, vf b) {
  return _mm512_min_ps(a, b);
}
inline vf max(vf a, vf b) {
  return _mm512_max_ps(a, b);
}
inline vf abs(vf a) {
  return _mm512_abs_ps(a);
}
inline vf copy_sign(vf size, vf sign) {
  return _mm512_or_ps(size, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));  // size >= 0
}
inline vf round(vf a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vf times_power_of_two(vf a, vf n) {
  return _mm512_scalef_ps(a, n);
}  // a 2^n, n whole

inline vm less(vf a, vf b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
inline vm equal(vf a, vf b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
inline vf select(vm m, vf yes, vf no) {
  return _mm512_mask_blend_ps(m, no, yes);
}
inline uint32_t bits(vm m) {
  return m;
}

inline vi set_int(int32_t x) {
  return _mm512_set1_epi32(x);
}
inline vi load_int(const int32_t* p) {
  return _mm512_loadu_si512(p);
}
inline vi count() {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
inline vm less_int(vi a, vi b) {
  return _mm512_cmplt_epi32_mask(a, b);
}
inline vm and_mask(vm a, vm b) {
  return a & b;
}
inline vi and_int(vi a, int32_t b) {
  return _mm512_and_si512(a, _mm512_set1_epi32(b));
}
inline vi or_int(vi a, vi b) {
  return _mm512_or_si512(a, b);
}
inline vi shift_up4(vi a) {
  return _mm512_slli_epi32(a, 4);
}
inline vi shift_down4(vi a) {
  return _mm512_srli_epi32(a, 4);
}
inline vf to_float(vi a) {
  return _mm512_cvtepi32_ps(a);
}
inline vi to_int(vf a) {
  return _mm512_cvtps_epi32(a);
}  // nearest even
inline vi load_signed_bytes(const void* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline vi load_bytes(const void* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline void store_bytes(void* p, vi a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}

inline float sum(vf a) {
  const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float largest(vf a) {
  const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

inline vf load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, vf x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline vf load_half_n(const uint16_t* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_n(n), p));
}
inline void store_half_n(uint16_t* p, vf x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_n(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline uint16_t half_of(float x) {
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
}
inline float float_of(uint16_t h) {
  return _cvtsh_ss(h);
}

inline vd zero_double() {
  return _mm512_setzero_pd();
}
inline vd set_double(double x) {
  return _mm512_set1_pd(x);
}
inline vd load_double(const double* p) {
  return _mm512_loadu_pd(p);
}
inline void store_double(double* p, vd x) {
  _mm512_storeu_pd(p, x);
}
inline vd low_double(vf a) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}  // lanes [0, lanes/2)
inline vd high_double(vf a) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}
inline vd add_double(vd a, vd b) {
  return _mm512_add_pd(a, b);
}
inline vd fma_double(vd a, vd b, vd c) {
  return _mm512_fmadd_pd(a, b, c);
}
inline double sum_double(vd a) {
  const __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
  const __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
  return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}
inline double square_root(double x) {
  return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_set_sd(x), _mm_set_sd(x)));
}

// even = a0 a2 .. b0 b2 .., odd = a1 a3 .. b1 b3 .., and back.
inline void deinterleave(vf a, vf b, vf& even, vf& odd) {
  const vi index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even = _mm512_permutex2var_ps(a, index, b);
  odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(index, _mm512_set1_epi32(1)), b);
}
inline void interleave(vf even, vf odd, vf& a, vf& b) {
  const vi index = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  a = _mm512_permutex2var_ps(even, index, odd);
  b = _mm512_permutex2var_ps(even, _mm512_add_epi32(index, _mm512_set1_epi32(8)), odd);
}

// r[i] lane j <-> r[j] lane i.
inline void transpose(vf* r) {
  vf t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {  // 4 x 4 blocks inside the 128-bit parts
    const vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
    const vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // 4 x 4 blocks of 128 bits
    const vf a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
    const vf c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
    r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

// Lane i of the result = sum of the lanes of r[i]. A step joins two vectors: half of each stays in place, the other
// halves change places (one shuffle for both), and the sum of these holds twice as many results.
inline vf sums(const vf* r) {
  const vi quarters = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  const vi ones = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
  vf t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    t[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, r[i], r[i + 8]), _mm512_shuffle_f32x4(r[i], r[i + 8], 0x4e));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    t[i] =
        _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, t[i], t[i + 4]), _mm512_permutex2var_ps(t[i], quarters, t[i + 4]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    t[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, t[i], t[i + 2]), _mm512_shuffle_ps(t[i], t[i + 2], 0x4e));
  return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, t[0], t[1]), _mm512_permutex2var_ps(t[0], ones, t[1]));
}

}  // namespace
}  // namespace foveal::avx512
