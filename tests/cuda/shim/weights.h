// Random tensors of every weight type for the kernel tests: bytes at random, scales of about one size.
#pragma once

#include <cmath>
#include <string>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/dequant.h"
#include "tests/cuda/shim/help.h"
#include "tests/kernels/block_scales.h"

namespace shim {

using block_scales::set_scale;
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
