// Matrices for products in bfloat16: offered where the CPU has them, refused by name elsewhere; quantised types stay.
#include <cmath>
#include <random>

#include "engine/backend/backend.h"
#include "engine/core/error.h"
#include "kernels/cpu/amx.h"
#include "tests/check.h"

using namespace foveal;

namespace {

struct Operands {
  std::vector<float> weights, x;
  TensorInfo tensor(int64_t rows, int64_t cols) const {
    return {"w", TensorType::F32, {cols, rows}, reinterpret_cast<const uint8_t*>(weights.data()), weights.size() * 4};
  }
};

Operands random_operands(int64_t rows, int64_t cols, int64_t tokens) {
  std::mt19937 rng(3);
  std::normal_distribution<float> value;
  Operands o{std::vector<float>(static_cast<size_t>(rows * cols)),
             std::vector<float>(static_cast<size_t>(tokens * cols))};
  for (float& v : o.weights) v = value(rng);
  for (float& v : o.x) v = value(rng);
  return o;
}

std::vector<float> multiplied(Backend& b, const Weight& w, const Operands& o, int64_t tokens) {
  std::vector<float> out(static_cast<size_t>(tokens * w.rows));
  b.matmul(Mat(out.data(), tokens, w.rows), w, ConstMat(o.x.data(), tokens, w.cols));
  return out;
}

}  // namespace

TEST(machines_without_the_instruction_refuse) {
  const Operands o = random_operands(16, 32, 1);
  const TensorInfo t = o.tensor(16, 32);
  const TensorInfo* part = &t;
  const auto scalar = make_cpu_backend(1, "scalar");
  CHECK_THROWS(Error, "AMX", scalar->load_matrix_bf16(std::span(&part, 1)));
}

// Rounding both factors to 8 bits moves each product by at most 2^-8 of itself (2 * 2^-9 and their product).
TEST(results_are_within_the_roundings_of_both_factors) {
  if (!isa_available(Isa::avx512) || !amx_kernels(Isa::avx512)) return;
  const auto b = make_cpu_backend(2, "avx512");
  const int64_t rows = 40, cols = 300, tokens = 25;
  const Operands o = random_operands(rows, cols, tokens);
  const TensorInfo t = o.tensor(rows, cols);
  const TensorInfo* part = &t;
  const WeightPtr exact = b->load_matrix(t), fast = b->load_matrix_bf16(std::span(&part, 1));
  CHECK_EQ(fast->bytes, exact->bytes);
  const auto expected = multiplied(*b, *exact, o, tokens), found = multiplied(*b, *fast, o, tokens);
  double moved = 0;
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t r = 0; r < rows; ++r) {
      double size = 0;
      for (int64_t k = 0; k < cols; ++k)
        size +=
            std::fabs(double{o.x[static_cast<size_t>(i * cols + k)]} * o.weights[static_cast<size_t>(r * cols + k)]);
      const auto at = static_cast<size_t>(i * rows + r);
      CHECK_NEAR(found[at], expected[at], size * (0x1.01p-8 + static_cast<double>(2 * cols) * 0x1p-24));
      moved = std::max<double>(moved, std::fabs(found[at] - expected[at]) / size);
    }
  CHECK(moved > 0x1p-16);  // it is bfloat16 that was measured
}
