// What the backend tests share: reproducible numbers, matrices with odd strides, the instruction sets of this machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "kernels/cpu/dispatch.h"

namespace reference {

constexpr double unit = 5.9604644775390625e-8;  // 2^-24: a float operation errs by at most this, relatively

// Uniform in [-1, 1), the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252ull) {}
  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  float operator()() { return static_cast<float>(static_cast<int64_t>(bits() >> 40) - (1 << 23)) / (1 << 23); }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() >> 11) % n; }

 private:
  uint64_t state_;
};

// A matrix whose rows are `stride` apart; the gaps hold a mark that operations must not touch.
struct Padded {
  std::vector<float> data;
  foveal::Mat view;
  static constexpr float mark = 12345.0f;
  Padded(int64_t rows, int64_t cols, int64_t stride)
      : data(static_cast<size_t>(rows * stride + 8), mark), view(data.data(), rows, cols, stride) {}
  Padded(int64_t rows, int64_t cols, int64_t stride, Random& random, float size = 1) : Padded(rows, cols, stride) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) view.row(i)[j] = size * random();
    }
  }
  Padded(const Padded& o) : data(o.data), view(data.data(), o.view.rows, o.view.cols, o.view.stride) {}
  Padded& operator=(const Padded&) = delete;
  bool gaps_untouched() const {
    for (size_t i = 0; i < data.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / view.stride, col = static_cast<int64_t>(i) % view.stride;
      if ((row >= view.rows || col >= view.cols) && data[i] != mark) return false;
    }
    return true;
  }
};

inline std::vector<float> numbers(size_t n, Random& random, float size = 1) {
  std::vector<float> out(n);
  for (float& x : out) x = size * random();
  return out;
}

inline std::vector<std::string> isas() {
  std::vector<std::string> names;
  const foveal::IsaList list = foveal::available_isas();
  for (int i = 0; i < list.count; ++i) names.push_back(foveal::isa_name(list.items[i]));
  return names;
}

}  // namespace reference
