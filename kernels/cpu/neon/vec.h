// The vector vocabulary of kernels/cpu/simd on NEON: 4 floats, 32 registers.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace foveal::neon {
namespace {

using vf = float32x4_t;  // `lanes` floats
using vi = int32x4_t;    // `lanes` int32
using vd = float64x2_t;  // lanes / 2 doubles
using vm = uint32x4_t;   // a truth value a lane: all bits or none
constexpr int lanes = 4;
constexpr int tile_rows = 8;  // register tile: tile_rows x tile_vectors accumulators
constexpr int tile_vectors = 3;
constexpr int decode_heads = 4;  // query heads per pass over V in decode

inline vf zero() {
  return vdupq_n_f32(0);
}
inline vf set(float x) {
  return vdupq_n_f32(x);
}
inline vf load(const float* p) {
  return vld1q_f32(p);
}
inline void store(float* p, vf x) {
  vst1q_f32(p, x);
}
// The first n lanes, n in [0, lanes]; the others read as 0 and aren't written.
inline vf load_n(const float* p, int64_t n) {
  float room[lanes] = {};
  for (int64_t i = 0; i < n; ++i) room[i] = p[i];
  return load(room);
}
inline void store_n(float* p, vf x, int64_t n) {
  float room[lanes];
  store(room, x);
  for (int64_t i = 0; i < n; ++i) p[i] = room[i];
}

inline vf add(vf a, vf b) {
  return vaddq_f32(a, b);
}
inline vf sub(vf a, vf b) {
  return vsubq_f32(a, b);
}
inline vf mul(vf a, vf b) {
  return vmulq_f32(a, b);
}
inline vf div(vf a, vf b) {
  return vdivq_f32(a, b);
}
inline vf fma(vf a, vf b, vf c) {
  return vfmaq_f32(c, a, b);
}  // a b + c
inline vf fnma(vf a, vf b, vf c) {
  return vfmsq_f32(c, a, b);
}  // c - a b
inline vm less(vf a, vf b) {
  return vcltq_f32(a, b);
}
inline vm equal(vf a, vf b) {
  return vceqq_f32(a, b);
}
inline vf select(vm m, vf yes, vf no) {
  return vbslq_f32(m, yes, no);
}
inline uint32_t bits(vm m) {
  const uint32x4_t weights = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, weights));
}
// When one operand is NaN the second comes back.
inline vf min(vf a, vf b) {
  return select(less(a, b), a, b);
}
inline vf max(vf a, vf b) {
  return select(less(b, a), a, b);
}
inline vf abs(vf a) {
  return vabsq_f32(a);
}
inline vf copy_sign(vf size, vf sign) {
  return vbslq_f32(vdupq_n_u32(0x80000000u), sign, size);  // size >= 0
}
inline vf round(vf a) {
  return vrndnq_f32(a);
}
inline vf power_of_two(vi n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
inline vf times_power_of_two(vf a, vf n) {  // a 2^n, n whole in [-250, 250]: in two steps, each a normal number
  const vi whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
  return mul(mul(a, power_of_two(half)), power_of_two(vsubq_s32(whole, half)));
}

inline vi set_int(int32_t x) {
  return vdupq_n_s32(x);
}
inline vi load_int(const int32_t* p) {
  return vld1q_s32(p);
}
inline vi count() {
  return vi{0, 1, 2, 3};
}
inline vm less_int(vi a, vi b) {
  return vcltq_s32(a, b);
}
inline vm and_mask(vm a, vm b) {
  return vandq_u32(a, b);
}
inline vi and_int(vi a, int32_t b) {
  return vandq_s32(a, vdupq_n_s32(b));
}
inline vi or_int(vi a, vi b) {
  return vorrq_s32(a, b);
}
inline vi shift_up4(vi a) {
  return vshlq_n_s32(a, 4);
}
inline vi shift_down4(vi a) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), 4));
}
inline vf to_float(vi a) {
  return vcvtq_f32_s32(a);
}
inline vi to_int(vf a) {
  return vcvtnq_s32_f32(a);
}  // nearest even
inline uint8x8_t four_bytes(const void* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return vreinterpret_u8_u32(vdup_n_u32(word));
}
inline vi load_signed_bytes(const void* p) {
  return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p)))));
}
inline vi load_bytes(const void* p) {
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))));
}
inline void store_bytes(void* p, vi a) {  // the low byte of every lane
  const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
  const uint32_t word = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
  __builtin_memcpy(p, &word, 4);
}

inline float sum(vf a) {
  return vaddvq_f32(a);
}
inline float largest(vf a) {
  return vmaxvq_f32(a);
}

inline vf load_half(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
inline void store_half(uint16_t* p, vf x) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}
inline vf load_half_n(const uint16_t* p, int64_t n) {
  uint16_t room[lanes] = {};
  for (int64_t i = 0; i < n; ++i) room[i] = p[i];
  return load_half(room);
}
inline void store_half_n(uint16_t* p, vf x, int64_t n) {
  uint16_t room[lanes];
  store_half(room, x);
  for (int64_t i = 0; i < n; ++i) p[i] = room[i];
}

inline uint16_t half_of(float x) {
  return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(set(x))), 0);
}
inline float float_of(uint16_t h) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0);
}

inline vd zero_double() {
  return vdupq_n_f64(0);
}
inline vd set_double(double x) {
  return vdupq_n_f64(x);
}
inline vd load_double(const double* p) {
  return vld1q_f64(p);
}
inline void store_double(double* p, vd x) {
  vst1q_f64(p, x);
}
inline vd low_double(vf a) {
  return vcvt_f64_f32(vget_low_f32(a));
}  // lanes [0, lanes/2)
inline vd high_double(vf a) {
  return vcvt_high_f64_f32(a);
}
inline vd add_double(vd a, vd b) {
  return vaddq_f64(a, b);
}
inline vd fma_double(vd a, vd b, vd c) {
  return vfmaq_f64(c, a, b);
}
inline double sum_double(vd a) {
  return vaddvq_f64(a);
}
inline double square_root(double x) {
  return vget_lane_f64(vsqrt_f64(vdup_n_f64(x)), 0);
}

// even = a0 a2 .. b0 b2 .., odd = a1 a3 .. b1 b3 .., and back.
inline void deinterleave(vf a, vf b, vf& even, vf& odd) {
  even = vuzp1q_f32(a, b);
  odd = vuzp2q_f32(a, b);
}
inline void interleave(vf even, vf odd, vf& a, vf& b) {
  a = vzip1q_f32(even, odd);
  b = vzip2q_f32(even, odd);
}

// r[i] lane j <-> r[j] lane i.
inline void transpose(vf* r) {
  const vf ac_low = vzip1q_f32(r[0], r[2]), ac_high = vzip2q_f32(r[0], r[2]);
  const vf bd_low = vzip1q_f32(r[1], r[3]), bd_high = vzip2q_f32(r[1], r[3]);
  interleave(ac_low, bd_low, r[0], r[1]);
  interleave(ac_high, bd_high, r[2], r[3]);
}

// Lane i of the result = sum of the lanes of r[i].
inline vf sums(const vf* r) {
  return vpaddq_f32(vpaddq_f32(r[0], r[1]), vpaddq_f32(r[2], r[3]));
}

}  // namespace
}  // namespace foveal::neon
