// Elements of the unquantised weight types as float32.
#pragma once

#include "kernels/cuda/bytes.cuh"

namespace foveal::cuda {

template <TensorType Type>
constexpr int64_t float_bytes = Type == TensorType::F32 ? 4 : 2;

// Element i of a row.
template <TensorType Type>
__device__ __forceinline__ float float_at(const uint8_t* row, int64_t i) {
  if (Type == TensorType::F32) return reinterpret_cast<const float*>(row)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[i];
  return Type == TensorType::F16 ? half_bits_to_float(bits) : __uint_as_float(uint32_t{bits} << 16);
}

// Elements i .. i + 3 of a row whose start and i are multiples of 4 elements.
template <TensorType Type>
__device__ __forceinline__ float4 four_floats(const uint8_t* row, int64_t i) {
  if (Type == TensorType::F32) return *reinterpret_cast<const float4*>(row + 4 * i);
  const uint2 w = *reinterpret_cast<const uint2*>(row + 2 * i);
  if (Type == TensorType::BF16)
    return make_float4(__uint_as_float(w.x << 16), __uint_as_float(w.x & 0xffff0000u), __uint_as_float(w.y << 16),
                       __uint_as_float(w.y & 0xffff0000u));
  return make_float4(
      half_bits_to_float(static_cast<uint16_t>(w.x)), half_bits_to_float(static_cast<uint16_t>(w.x >> 16)),
      half_bits_to_float(static_cast<uint16_t>(w.y)), half_bits_to_float(static_cast<uint16_t>(w.y >> 16)));
}

}  // namespace foveal::cuda
