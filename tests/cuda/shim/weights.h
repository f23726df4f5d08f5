// Random tensors of every weight type for the kernel tests: bytes at random, scales of about one size.
#pragma once

#include <cmath>
#include <string>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/dequant.h"
#include "tests/cuda/shim/help.h"

namespace shim {

using foveal::TensorType;

constexpr TensorType all_types[] = {
    TensorType::F32,     TensorType::F16,    TensorType::BF16,  TensorType::Q4_0,   TensorType::Q4_1,
    TensorType::Q5_0,    TensorType::Q5_1,   TensorType::Q8_0,  TensorType::Q2_K,   TensorType::Q3_K,
    TensorType::Q4_K,    TensorType::Q5_K,   TensorType::Q6_K,  TensorType::IQ4_NL, TensorType::IQ4_XS,
    TensorType::IQ2_XXS, TensorType::IQ2_XS, TensorType::IQ2_S, TensorType::IQ3_S,  TensorType::IQ3_XXS,
    TensorType::IQ1_S,   TensorType::IQ1_M,  TensorType::TQ1_0, TensorType::TQ2_0,  TensorType::MXFP4};

inline const foveal::cuda::Codebooks* codebooks() {
  static foveal::cuda::Codebooks books;
  foveal::cuda::fill_codebooks(&books);
  return &books;
}

// Offsets of the half-precision scales in a block; -1 ends the list.
inline std::vector<size_t> scales_of(TensorType type) {
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
    for (const size_t at : scales_of(type)) std::memcpy(block + at, &half, 2);
  }
}

// A tensor with its bytes at a 16-byte boundary, its values, and per element the size of the terms that make it.
struct Tensor {
  TensorType type;
  int64_t rows, cols;
  std::vector<foveal::cuda::KvHead> room;  // any type that new aligns to 16
  std::vector<float> values, sizes;
  foveal::cuda::WeightPart part() const { return {room.data(), type, rows, cols, codebooks()}; }
};

inline Tensor random_tensor(TensorType type, int64_t rows, int64_t cols, float scale = 0.125f) {
  const foveal::TypeTraits& traits = foveal::traits_of(type);
  const auto bytes = static_cast<size_t>(rows * cols / traits.block_elements * traits.block_bytes);
  Tensor t{type, rows, cols, {}, {}, {}};
  t.room.resize(bytes / sizeof(t.room[0]) + 1);
  auto* raw = reinterpret_cast<uint8_t*>(t.room.data());
  std::uniform_real_distribution<float> size(0.1f, 1.0f);
  for (size_t i = 0; i < bytes; ++i) raw[i] = static_cast<uint8_t>(rng()());
  for (size_t i = 0; i < bytes; i += static_cast<size_t>(traits.block_bytes)) {
    const float v = size(rng()) * scale;
    set_scale(type, raw + i, rng()() % 2 && type != TensorType::MXFP4 ? -v : v);
  }
  t.values.resize(static_cast<size_t>(rows * cols));
  foveal::dequantize_row(type, raw, t.values.data(), rows * cols);
  for (const float v : t.values) t.sizes.push_back(std::fabs(v));
  const foveal::AffineFormat f = foveal::affine_format(type);
  if (f.mins) {
    std::vector<uint8_t> codes(t.values.size());
    std::vector<float> d(codes.size()), m(codes.size());
    foveal::unpack_affine(type, raw, rows * cols, codes.data(), d.data(), m.data());
    const auto sub = static_cast<size_t>(f.sub);
    for (size_t i = 0; i < codes.size(); ++i)
      t.sizes[i] = std::fabs(d[i / sub] * static_cast<float>(codes[i])) + std::fabs(m[i / sub]);
  }
  return t;
}

inline int64_t least_cols(TensorType type) {
  const int64_t block = foveal::traits_of(type).block_elements;
  return block == 1 ? 37 : block;
}

}  // namespace shim
