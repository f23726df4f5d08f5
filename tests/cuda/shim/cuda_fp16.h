// For tests only: half precision as the CUDA kernels use it, by the scalar kernels' bit conversions.
#pragma once

#include "kernels/cpu/scalar/half.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline float __half2float(__half h) {
  return foveal::scalar::half_to_float(h.bits);
}
inline __half __float2half_rn(float x) {
  return {foveal::scalar::float_to_half(x)};
}
inline __half __ushort_as_half(unsigned short bits) {
  return {bits};
}
inline unsigned short __half_as_ushort(__half h) {
  return h.bits;
}
inline __half2 __floats2half2_rn(float a, float b) {
  return {__float2half_rn(a), __float2half_rn(b)};
}
