// What the kernel tests share: random numbers, matrices with a gap after each row, and the check of both thread orders.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/cuda/launch.h"
#include "tests/check.h"

namespace shim {

constexpr double unit = 0x1p-24;  // half a unit in the last place of 1: the relative error of one rounding

inline std::mt19937& rng() {
  static std::mt19937 engine(7);
  return engine;
}
inline std::vector<float> randoms(int64_t n, float size = 1.0f) {
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(rng());
  return x;
}

// [rows, cols] with `gap` unused numbers between rows, which kernels must leave alone; not a number after the last.
struct Matrix {
  int64_t rows, cols, stride;
  std::vector<float> data;
  Matrix(int64_t r, int64_t c, int64_t gap = 0, float size = 1.0f)
      : rows(r), cols(c), stride(c + gap), data(randoms(r > 0 ? (r - 1) * (c + gap) + c : 0, size)) {}
  float* row(int64_t i) { return data.data() + i * stride; }
  const float* row(int64_t i) const { return data.data() + i * stride; }
  foveal::cuda::Rows view() { return {data.data(), rows, cols, stride}; }
  foveal::cuda::ConstRows view() const { return {data.data(), rows, cols, stride}; }
};

// Runs make() with the threads started in both orders; the results, vectors or matrices, must be the same bits.
template <class Make>
auto both_orders(Make make) {
  backwards = false;
  const auto first = make();
  backwards = true;
  const auto second = make();
  backwards = false;
  CHECK(first.size() == second.size());
  CHECK(first.empty() || std::memcmp(first.data(), second.data(), first.size() * sizeof(first[0])) == 0);
  return first;
}

}  // namespace shim
