// The vector vocabulary of kernels/cpu/simd on AVX2 with FMA and F16C: 8 floats, 16 registers.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace foveal::avx2 {
namespace {

using vf = __m256;   // `lanes` floats
using vi = __m256i;  // `lanes` int32
using vd = __m256d;  // lanes / 2 doubles
using vm = __m256;   // a truth value a lane: all bits or none
constexpr int lanes = 8;
constexpr int tile_rows = 4;  // register tile: tile_rows x tile_vectors accumulators
constexpr int tile_vectors = 3;
constexpr int decode_heads = 2;  // query heads per pass over V in decode

inline __m256i first_n(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline vf zero() {
  return _mm256_setzero_ps();
}
inline vf set(float x) {
  return _mm256_set1_ps(x);
}
inline vf load(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void store(float* p, vf x) {
  _mm256_storeu_ps(p, x);
}
// The first n lanes, n in [0, lanes]; the others read as 0 and aren't written.
inline vf load_n(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_n(n));
}
inline void store_n(float* p, vf x, int64_t n) {
  _mm256_maskstore_ps(p, first_n(n), x);
}

inline vf add(vf a, vf b) {
  return _mm256_add_ps(a, b);
}
inline vf sub(vf a, vf b) {
  return _mm256_sub_ps(a, b);
}
inline vf mul(vf a, vf b) {
  return _mm256_mul_ps(a, b);
}
inline vf div(vf a, vf b) {
  return _mm256_div_ps(a, b);
}
inline vf fma(vf a, vf b, vf c) {
  return _mm256_fmadd_ps(a, b, c);
}  // a b + c
inline vf fnma(vf a, vf b, vf c) {
  return _mm256_fnmadd_ps(a, b, c);
}  // c - a b
// When one operand is NaN the second comes back.
inline vf min(vf a, vf b) {
  return _mm256_min_ps(a, b);
}
inline vf max(vf a, vf b) {
  return _mm256_max_ps(a, b);
}
inline vf abs(vf a) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
inline vf copy_sign(vf size, vf sign) {
  return _mm256_or_ps(size, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));  // size >= 0
}
inline vf round(vf a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vf power_of_two(vi n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline vf times_power_of_two(vf a, vf n) {  // a 2^n, n whole in [-250, 250]: in two steps, each a normal number
  const vi whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return _mm256_mul_ps(_mm256_mul_ps(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}

inline vm less(vf a, vf b) {
  return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
inline vm equal(vf a, vf b) {
  return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
inline vf select(vm m, vf yes, vf no) {
  return _mm256_blendv_ps(no, yes, m);
}
inline uint32_t bits(vm m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m));
}

inline vi set_int(int32_t x) {
  return _mm256_set1_epi32(x);
}
inline vi load_int(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline vi count() {
  return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}
inline vm less_int(vi a, vi b) {
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a));
}
inline vm and_mask(vm a, vm b) {
  return _mm256_and_ps(a, b);
}
inline vi and_int(vi a, int32_t b) {
  return _mm256_and_si256(a, _mm256_set1_epi32(b));
}
inline vi or_int(vi a, vi b) {
  return _mm256_or_si256(a, b);
}
inline vi shift_up4(vi a) {
  return _mm256_slli_epi32(a, 4);
}
inline vi shift_down4(vi a) {
  return _mm256_srli_epi32(a, 4);
}
inline vf to_float(vi a) {
  return _mm256_cvtepi32_ps(a);
}
inline vi to_int(vf a) {
  return _mm256_cvtps_epi32(a);
}  // nearest even
inline vi load_signed_bytes(const void* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}
inline vi load_bytes(const void* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}
inline void store_bytes(void* p, vi a) {  // the low byte of every lane
  const __m256i low =
      _mm256_shuffle_epi8(a, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                                              -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  _mm_storel_epi64(static_cast<__m128i*>(p), both);
}

inline float sum(vf a) {
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float largest(vf a) {
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

inline vf load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_half(uint16_t* p, vf x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline vf load_half_n(const uint16_t* p, int64_t n) {
  uint16_t room[8] = {};
  for (int64_t i = 0; i < n; ++i) room[i] = p[i];
  return load_half(room);
}
inline void store_half_n(uint16_t* p, vf x, int64_t n) {
  uint16_t room[8];
  store_half(room, x);
  for (int64_t i = 0; i < n; ++i) p[i] = room[i];
}

inline uint16_t half_of(float x) {
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
}
inline float float_of(uint16_t h) {
  return _cvtsh_ss(h);
}

inline vd zero_double() {
  return _mm256_setzero_pd();
}
inline vd set_double(double x) {
  return _mm256_set1_pd(x);
}
inline vd load_double(const double* p) {
  return _mm256_loadu_pd(p);
}
inline void store_double(double* p, vd x) {
  _mm256_storeu_pd(p, x);
}
inline vd low_double(vf a) {
  return _mm256_cvtps_pd(_mm256_castps256_ps128(a));
}  // lanes [0, lanes/2)
inline vd high_double(vf a) {
  return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
}
inline vd add_double(vd a, vd b) {
  return _mm256_add_pd(a, b);
}
inline vd fma_double(vd a, vd b, vd c) {
  return _mm256_fmadd_pd(a, b, c);
}
inline double sum_double(vd a) {
  const __m128d c = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}
inline double square_root(double x) {
  return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_set_sd(x), _mm_set_sd(x)));
}

// even = a0 a2 .. b0 b2 .., odd = a1 a3 .. b1 b3 .., and back.
inline void deinterleave(vf a, vf b, vf& even, vf& odd) {
  const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)),
                o = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
  even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
  odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}
inline void interleave(vf even, vf odd, vf& a, vf& b) {
  const vf low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
  a = _mm256_permute2f128_ps(low, high, 0x20);
  b = _mm256_permute2f128_ps(low, high, 0x31);
}

// r[i] lane j <-> r[j] lane i.
inline void transpose(vf* r) {
  vf t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // 4 x 4 blocks inside the 128-bit halves
    const vf a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
    const vf c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

// Lane i of the result = sum of the lanes of r[i].
inline vf sums(const vf* r) {
  const vf a = _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
  const vf b = _mm256_hadd_ps(_mm256_hadd_ps(r[4], r[5]), _mm256_hadd_ps(r[6], r[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

}  // namespace
}  // namespace foveal::avx2
