// KV rows as they are stored: F32, F16, and blocks of 32 with a half-precision scale (Q8_0: d, 32 codes; Q4_0: d, 16
// bytes of nibbles). The same numbers as kernels/cpu/scalar/rows.cpp, bit for bit.
#pragma once

#include "kernels/cuda/bytes.cuh"

namespace foveal::cuda {

constexpr int q8_bytes = 34, q4_bytes = 18;

// Element i of a row.
template <RowType Type>
__device__ __forceinline__ float stored_at(const uint8_t* row, int64_t i) {
  if (Type == RowType::F32) return reinterpret_cast<const float*>(row)[i];
  if (Type == RowType::F16) return half_bits_to_float(reinterpret_cast<const uint16_t*>(row)[i]);
  const auto in = static_cast<int>(i % 32);
  if (Type == RowType::Q8_0) {
    const uint8_t* block = row + i / 32 * q8_bytes;
    return read_half(block) * static_cast<float>(static_cast<int8_t>(block[2 + in]));
  }
  const uint8_t* block = row + i / 32 * q4_bytes;
  const int code = in < 16 ? block[2 + in] & 15 : block[2 + in - 16] >> 4;
  return read_half(block) * static_cast<float>(code - 8);
}

// Elements i .. i + 3 of a row of n, i a multiple of 4; zeros past the end.
template <RowType Type>
__device__ __forceinline__ float4 stored_four(const uint8_t* row, int64_t i, int64_t n) {
  if (Type == RowType::Q8_0) {
    const uint8_t* block = row + i / 32 * q8_bytes;
    const float d = read_half(block);
    const uint32_t w = read32_at2(block + 2 + i % 32);
    return make_float4(
        d * static_cast<float>(static_cast<int8_t>(w)), d * static_cast<float>(static_cast<int8_t>(w >> 8)),
        d * static_cast<float>(static_cast<int8_t>(w >> 16)), d * static_cast<float>(static_cast<int8_t>(w >> 24)));
  }
  if (Type == RowType::Q4_0) {
    const uint8_t* block = row + i / 32 * q4_bytes;
    const float d = read_half(block);
    const uint32_t w = read32_at2(block + 2 + i % 16) >> (i % 32 < 16 ? 0 : 4);
    return make_float4(d * static_cast<float>(static_cast<int>(w & 15) - 8),
                       d * static_cast<float>(static_cast<int>(w >> 8 & 15) - 8),
                       d * static_cast<float>(static_cast<int>(w >> 16 & 15) - 8),
                       d * static_cast<float>(static_cast<int>(w >> 24 & 15) - 8));
  }
  if (n % 4 == 0) {  // rows start at multiples of four elements
    if (Type == RowType::F32) return *reinterpret_cast<const float4*>(row + 4 * i);
    const uint2 w = *reinterpret_cast<const uint2*>(row + 2 * i);
    return make_float4(
        half_bits_to_float(static_cast<uint16_t>(w.x)), half_bits_to_float(static_cast<uint16_t>(w.x >> 16)),
        half_bits_to_float(static_cast<uint16_t>(w.y)), half_bits_to_float(static_cast<uint16_t>(w.y >> 16)));
  }
  return make_float4(i < n ? stored_at<Type>(row, i) : 0, i + 1 < n ? stored_at<Type>(row, i + 1) : 0,
                     i + 2 < n ? stored_at<Type>(row, i + 2) : 0, i + 3 < n ? stored_at<Type>(row, i + 3) : 0);
}

// A whole warp stores elements first .. first + 31 of a row of n, each lane its value.
template <RowType Type>
__device__ __forceinline__ void store_run(uint8_t* row, int64_t first, int64_t n, float value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (Type == RowType::F32 || Type == RowType::F16) {
    if (first + lane >= n) return;
    if (Type == RowType::F32) {
      reinterpret_cast<float*>(row)[first + lane] = value;
    } else {
      reinterpret_cast<uint16_t*>(row)[first + lane] = float_to_half_bits(value);
    }
    return;
  }
  if (Type == RowType::Q8_0) {
    uint8_t* block = row + first / 32 * q8_bytes;
    const float d = warp_max(fabsf(value)) / 127.0f, inverse = d > 0 ? 1.0f / d : 0.0f;
    if (lane == 0) *reinterpret_cast<uint16_t*>(block) = float_to_half_bits(d);
    block[2 + lane] = static_cast<uint8_t>(static_cast<int8_t>(rintf(value * inverse)));
    return;
  }
  // Q4_0: the number of largest magnitude, the first of them, maps to -8 exactly.
  uint8_t* block = row + first / 32 * q4_bytes;
  const float largest = warp_max(fabsf(value));
  const unsigned holders = __ballot_sync(all_lanes, fabsf(value) == largest);
  int holder = 0;
  while (holder < 31 && (holders >> holder & 1) == 0) ++holder;
  const float d = __shfl_sync(all_lanes, value, holder) / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  const auto level = static_cast<int>(fminf(15.0f, fmaxf(0.0f, rintf(value * inverse) + 8.0f)));
  const int above = __shfl_xor_sync(all_lanes, level, 16);
  if (lane == 0) *reinterpret_cast<uint16_t*>(block) = float_to_half_bits(d);
  if (lane < 16) block[2 + lane] = static_cast<uint8_t>(level | above << 4);
}

// CALL(F32) CALL(F16) CALL(Q8_0) CALL(Q4_0) for the cases of a switch.
#define FOVEAL_STORED(CALL) CALL(F32) CALL(F16) CALL(Q8_0) CALL(Q4_0)

}  // namespace foveal::cuda
