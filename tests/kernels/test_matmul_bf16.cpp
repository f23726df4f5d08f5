// Products of bfloat16, one or three a pair of factors: against double precision, and AMX against its specification.
#include <cmath>
#include <random>

#include "engine/backend/cpu_weight.h"
#include "kernels/cpu/scalar/half.h"
#include "tests/check.h"
#include "tests/kernels/matmul_inputs.h"

using namespace foveal;
using namespace matmul_inputs;

namespace {

float rounded(float v) {
  const uint32_t bits = uint32_t{bf16_of_bits(scalar::float_bits(v))} << 16;
  return scalar::bits_float(bits);
}

std::vector<float> bf16_product(const TensorInfo& t, ConstMat x, int threads, const float* bias, const AmxKernels* amx,
                                FloatProducts packing = FloatProducts::bf16) {
  ThreadPool pool(threads);
  const TensorInfo* p = &t;
  const WeightPtr w = pack_weight(std::span(&p, 1), packing);
  CHECK(static_cast<const CpuWeight&>(*w).paired);
  std::vector<float> out(static_cast<size_t>(x.rows * t.rows()), -99.0f);
  MatmulScratch scratch;
  cpu_matmul(pool, matmul_kernels(detect_isa()), Mat(out.data(), x.rows, t.rows()), static_cast<const CpuWeight&>(*w),
             x, bias, scratch, amx);
  return out;
}

const Case kBf16Cases[] = {
    {TensorType::F32, 33, 801}, {TensorType::F16, 50, 130}, {TensorType::F16, 20, 96}, {TensorType::BF16, 17, 768}};

float exactly(float v) {
  return v;
}

// Products of every case against double precision on what `factor` makes of inputs and weights. `bound` times the sum
// of magnitudes is allowed, given the number of inputs.
void check_products(FloatProducts packing, float (*factor)(float), double (*bound)(int64_t), unsigned seed) {
  std::mt19937 rng(seed);
  for (const Case& c : kBf16Cases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    const Buffer<float> w = dequantize_tensor(t);
    const Input x = random_rows(13, c.cols, rng);
    const auto out = bf16_product(t, x.view, 1, nullptr, nullptr, packing);
    for (int64_t i = 0; i < 13; ++i)
      for (int64_t o = 0; o < c.rows; ++o) {
        double exact = 0, size = 0;
        for (int64_t k = 0; k < c.cols; ++k) {
          const double term = double{factor(x.view.row(i)[k])} * factor(w[static_cast<size_t>(o * c.cols + k)]);
          exact += term;
          size += std::fabs(term);
        }
        const double found = out[static_cast<size_t>(i * c.rows + o)];
        CHECK_NEAR(found, exact, size * bound(c.cols));
      }
  }
}

}  // namespace

TEST(bf16_rounds_to_nearest_even) {
  CHECK_EQ(bf16_of_bits(0x3f808000), 0x3f80);  // a tie goes to the even neighbour below
  CHECK_EQ(bf16_of_bits(0x3f818000), 0x3f82);  // and above
  CHECK_EQ(bf16_of_bits(0x3f808001), 0x3f81);
  CHECK_EQ(bf16_of_bits(0x7f7fffff), 0x7f80);  // too large: infinity
  CHECK_EQ(bf16_of_bits(0x7f800001), 0x7fc0);  // no number stays none
}

// On rounded factors only additions err, each by 2^-24 of the sum of magnitudes.
TEST(bf16_products_are_exact_but_for_the_sums) {
  check_products(
      FloatProducts::bf16, rounded, [](int64_t cols) { return static_cast<double>(cols + 2) * 0x1p-24; }, 9);
}

// Two bfloat16 leave at most 2^-17 of a factor each, and the product of the low parts (2^-18) is left out.
TEST(split_products_are_nearly_exact) {
  check_products(
      FloatProducts::bf16x3, exactly, [](int64_t cols) { return 0x1.4p-16 + static_cast<double>(3 * cols) * 0x1p-24; },
      11);
}

TEST(bf16_instructions_give_the_bits_of_the_specification) {
  const AmxKernels* fast = amx_kernels(detect_isa());
  if (!fast) return;
  std::mt19937 rng(10);
  for (const Case& c : kBf16Cases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    std::vector<float> bias(static_cast<size_t>(c.rows), 0.75f);
    for (const int tokens : {1, 2, 3, 5, 12, 17, 31, 650}) {
      if (tokens == 650 && c.type != TensorType::BF16) continue;  // more than one item's share of tokens
      const Input x = random_rows(tokens, c.cols, rng);
      const auto expected = bf16_product(t, x.view, 1, bias.data(), nullptr);
      CHECK(bf16_product(t, x.view, 1, bias.data(), fast) == expected);
      CHECK(bf16_product(t, x.view, 3, bias.data(), fast) == expected);
      const auto split = bf16_product(t, x.view, 1, bias.data(), nullptr, FloatProducts::bf16x3);
      CHECK(bf16_product(t, x.view, 3, bias.data(), fast, FloatProducts::bf16x3) == split);
    }
  }
}
