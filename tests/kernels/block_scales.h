// Where blocks of the quantised types hold their scales, for tests that fill the rest of them at random.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/dequant.h"

namespace block_scales {

using foveal::TensorType;

// Offsets of a block's half-precision scales.
inline std::vector<size_t> half_places(TensorType type) {
  const auto end = static_cast<size_t>(foveal::traits_of(type).block_bytes);
  switch (type) {
    case TensorType::Q2_K:
      return {80, 82};
    case TensorType::Q3_K:
    case TensorType::Q6_K:
    case TensorType::TQ1_0:
    case TensorType::TQ2_0:
      return {end - 2};
    case TensorType::Q4_1:
    case TensorType::Q5_1:
    case TensorType::Q4_K:
    case TensorType::Q5_K:
      return {0, 2};
    default:
      return {0};
  }
}

// Sets a block's scales, or what stands for one in types without.
inline void set_scale(TensorType type, uint8_t* block, float value) {
  const uint16_t half = foveal::scalar::float_to_half(value);
  const uint32_t bits = foveal::scalar::float_bits(value);
  if (type == TensorType::F32) {
    std::memcpy(block, &bits, 4);
  } else if (type == TensorType::BF16) {
    std::memcpy(block, reinterpret_cast<const char*>(&bits) + 2, 2);
  } else if (type == TensorType::MXFP4) {
    block[0] = static_cast<uint8_t>(127 + std::ilogb(value));
  } else if (type == TensorType::IQ1_M) {  // a nibble in the top of each of four words
    for (int i = 0; i < 4; ++i)
      block[49 + 2 * i] = static_cast<uint8_t>((block[49 + 2 * i] & 15) | (half >> 4 * i & 15) << 4);
  } else {
    for (const size_t at : half_places(type)) std::memcpy(block + at, &half, 2);
  }
}

}  // namespace block_scales
