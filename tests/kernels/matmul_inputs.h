// Random weights of every type and random rows, for the tests of matrix products.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "engine/backend/cpu_weight.h"
#include "kernels/cpu/scalar/half.h"

namespace matmul_inputs {

using namespace foveal;

// Where a block holds its half-precision scales.
inline std::vector<size_t> half_places(TensorType type) {
  const auto end = static_cast<size_t>(traits_of(type).block_bytes);
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
    case TensorType::F32:
    case TensorType::F16:
    case TensorType::BF16:
    case TensorType::MXFP4:
    case TensorType::IQ1_M:
      return {};
    default:
      return {0};
  }
}

// One block whose values are of the size `scale`, bytes otherwise random.
inline void set_scales(TensorType type, uint8_t* block, float value, float scale) {
  const auto half = scalar::float_to_half(value * scale);
  const uint32_t bits = scalar::float_bits(value * scale);
  for (const size_t at : half_places(type)) std::memcpy(block + at, &half, 2);
  if (type == TensorType::F32) std::memcpy(block, &bits, 4);
  if (type == TensorType::F16) std::memcpy(block, &half, 2);
  if (type == TensorType::BF16)
    block[0] = static_cast<uint8_t>(bits >> 16), block[1] = static_cast<uint8_t>(bits >> 24);
  if (type == TensorType::MXFP4) block[0] = static_cast<uint8_t>(127 + std::ilogb(std::fabs(value) * scale));
  if (type == TensorType::IQ1_M)  // a nibble in the top of each of four words
    for (int i = 0; i < 4; ++i)
      block[49 + 2 * i] = static_cast<uint8_t>((block[49 + 2 * i] & 15) | (half >> 4 * i & 15) << 4);
}

inline std::vector<uint8_t> random_tensor(TensorType type, int64_t rows, int64_t cols, std::mt19937& rng,
                                          float scale = 0.125f) {
  const TypeTraits& t = traits_of(type);
  std::vector<uint8_t> raw(static_cast<size_t>(rows * cols / t.block_elements * t.block_bytes));
  std::uniform_real_distribution<float> size(0.01f, 1.0f);
  for (auto& b : raw) b = static_cast<uint8_t>(rng());
  for (auto* p = raw.data(); p < raw.data() + raw.size(); p += t.block_bytes)
    set_scales(type, p, rng() % 2 ? size(rng) : -size(rng), scale);
  return raw;
}

struct Case {
  TensorType type;
  int64_t rows, cols;
};

inline TensorInfo info_of(const Case& c, const std::vector<uint8_t>& raw) {
  return {"w", c.type, {c.cols, c.rows}, raw.data(), raw.size()};
}

struct Input {
  std::vector<float> data;
  ConstMat view;
};

inline Input random_rows(int64_t rows, int64_t cols, std::mt19937& rng) {
  Input in;
  std::normal_distribution<float> value;
  const int64_t stride = cols + 3;
  in.data.resize(static_cast<size_t>(rows * stride));
  for (float& v : in.data) v = value(rng);
  in.view = ConstMat(in.data.data(), rows, cols, stride);
  return in;
}

}  // namespace matmul_inputs
