// Random weights of every type and random rows, for the tests of matrix products.
#pragma once

#include <random>
#include <vector>

#include "engine/backend/cpu_weight.h"
#include "tests/kernels/block_scales.h"

namespace matmul_inputs {

using namespace foveal;

inline std::vector<uint8_t> random_tensor(TensorType type, int64_t rows, int64_t cols, std::mt19937& rng,
                                          float scale = 0.125f) {
  const TypeTraits& t = traits_of(type);
  std::vector<uint8_t> raw(static_cast<size_t>(rows * cols / t.block_elements * t.block_bytes));
  std::uniform_real_distribution<float> size(0.01f, 1.0f);
  for (auto& b : raw) b = static_cast<uint8_t>(rng());
  for (auto* p = raw.data(); p < raw.data() + raw.size(); p += t.block_bytes)
    block_scales::set_scale(type, p, (rng() % 2 ? size(rng) : -size(rng)) * scale);
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
