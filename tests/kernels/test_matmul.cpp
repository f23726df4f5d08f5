// Matrix products of every weight type: against double precision, the same bits for every instruction set, number of
// threads and number of tokens.
#include <algorithm>
#include <random>

#include "engine/backend/cpu_weight.h"
#include "kernels/cpu/scalar/half.h"
#include "tests/check.h"

using namespace foveal;

namespace {

// Random bytes of a type with scales of ordinary size: half-precision fields are overwritten with values in (0, 1/8).
std::vector<uint8_t> random_tensor(TensorType type, int64_t rows, int64_t cols, std::mt19937& rng) {
  const TypeTraits& t = traits_of(type);
  std::vector<uint8_t> raw(static_cast<size_t>(rows * cols / t.block_elements * t.block_bytes));
  std::uniform_real_distribution<float> small(0.001f, 0.125f), value(-1.0f, 1.0f);
  const auto put_half = [&](size_t at, float v) {
    const uint16_t h = scalar::float_to_half(v);
    std::memcpy(raw.data() + at, &h, 2);
  };
  for (auto& b : raw) b = static_cast<uint8_t>(rng());
  const auto block = static_cast<size_t>(t.block_bytes);
  for (size_t b = 0; b < raw.size() / block; ++b) switch (type) {
      case TensorType::F32: {
        const float v = value(rng);
        std::memcpy(raw.data() + 4 * b, &v, 4);
        break;
      }
      case TensorType::F16:
        put_half(2 * b, value(rng));
        break;
      case TensorType::BF16: {
        const uint32_t bits = scalar::float_bits(value(rng));
        raw[2 * b] = static_cast<uint8_t>(bits >> 16);
        raw[2 * b + 1] = static_cast<uint8_t>(bits >> 24);
        break;
      }
      case TensorType::Q2_K:
        put_half(b * block + 80, small(rng));
        put_half(b * block + 82, small(rng));
        break;
      case TensorType::Q3_K:
      case TensorType::Q6_K:
        put_half(b * block + block - 2, small(rng));
        break;
      case TensorType::Q4_1:
      case TensorType::Q5_1:
      case TensorType::Q4_K:
      case TensorType::Q5_K:
        put_half(b * block, small(rng));
        put_half(b * block + 2, small(rng));
        break;
      default:
        put_half(b * block, small(rng));
    }
  return raw;
}

struct Case {
  TensorType type;
  int64_t rows, cols;
};

const Case kCases[] = {
    {TensorType::F32, 33, 40},    {TensorType::F16, 50, 129},   {TensorType::BF16, 16, 64},
    {TensorType::Q4_0, 37, 96},   {TensorType::Q4_1, 16, 64},   {TensorType::Q5_0, 15, 32},
    {TensorType::Q5_1, 70, 160},  {TensorType::Q8_0, 49, 96},   {TensorType::Q2_K, 18, 256},
    {TensorType::Q3_K, 33, 512},  {TensorType::Q4_K, 40, 256},  {TensorType::Q5_K, 17, 256},
    {TensorType::Q6_K, 31, 512},  {TensorType::IQ4_NL, 20, 64}, {TensorType::IQ4_XS, 9, 256},
    {TensorType::IQ2_S, 16, 256},
};

TensorInfo info_of(const Case& c, const std::vector<uint8_t>& raw) {
  return {"w", c.type, {c.cols, c.rows}, raw.data(), raw.size()};
}

struct Input {
  std::vector<float> data;
  ConstMat view;
};

Input random_rows(int64_t rows, int64_t cols, std::mt19937& rng) {
  Input in;
  std::normal_distribution<float> value;
  const int64_t stride = cols + 3;
  in.data.resize(static_cast<size_t>(rows * stride));
  for (float& v : in.data) v = value(rng);
  in.view = ConstMat(in.data.data(), rows, cols, stride);
  return in;
}

std::vector<float> product(const TensorInfo& t, ConstMat x, Isa isa, int threads, const float* bias) {
  ThreadPool pool(threads);
  const TensorInfo* p = &t;
  const WeightPtr w = pack_weight(std::span(&p, 1), isa, pool);
  std::vector<float> out(static_cast<size_t>(x.rows * t.rows()), -99.0f);
  MatmulScratch scratch;
  cpu_matmul(pool, matmul_kernels(isa), Mat(out.data(), x.rows, t.rows()), static_cast<const CpuWeight&>(*w), x, bias,
             scratch);
  return out;
}

}  // namespace

// Quantised: activations are rounded to amax / 127 steps per 32 inputs, scales to half precision. Floating: rounding of
// a chain of n additions.
TEST(close_to_double_precision) {
  std::mt19937 rng(1);
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    const Buffer<float> w = dequantize_tensor(t);
    const Input x = random_rows(7, c.cols, rng);
    std::vector<float> bias(static_cast<size_t>(c.rows));
    for (float& b : bias) b = 0.25f;
    const auto out = product(t, x.view, Isa::scalar, 1, bias.data());
    const bool quantised = affine_format(c.type).bits > 0;
    const double weight_rounding = quantised ? 0x1p-10 : t.type == TensorType::IQ2_S ? 0x1p-11 : 0;
    for (int64_t i = 0; i < 7; ++i)
      for (int64_t o = 0; o < c.rows; ++o) {
        double exact = 0.25, bound = 1e-6;
        for (int64_t k0 = 0; k0 < c.cols; k0 += 32) {
          double amax = 0;
          for (int64_t k = k0; k < std::min(c.cols, k0 + 32); ++k)
            amax = std::max<double>(amax, std::fabs(x.view.row(i)[k]));
          for (int64_t k = k0; k < std::min(c.cols, k0 + 32); ++k) {
            const double a = x.view.row(i)[k], b = w[static_cast<size_t>(o * c.cols + k)];
            exact += a * b;
            bound += std::fabs(b) * (quantised ? amax / 127 / 2 * 1.01 : 0) +
                     std::fabs(a) * 16 * 0.125 * weight_rounding * (quantised ? 16 : 1) +
                     std::fabs(a * b) * 0x1p-23 * static_cast<double>(c.cols);
          }
        }
        const double found = out[static_cast<size_t>(i * c.rows + o)];
        if (!(std::fabs(found - exact) <= bound))
          check::failed(traits_of(c.type).name, static_cast<int>(o),
                        std::to_string(found) + " vs " + std::to_string(exact) + " bound " + std::to_string(bound));
      }
  }
}

TEST(every_instruction_set_gives_the_same_bits) {
  std::mt19937 rng(2);
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    for (const int tokens : {1, 2, 3, 5, 8, 13, 16, 17, 31, 70}) {
      const Input x = random_rows(tokens, c.cols, rng);
      const auto expected = product(t, x.view, Isa::scalar, 1, nullptr);
      for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::neon}) {
        if (!isa_available(isa)) continue;
        if (product(t, x.view, isa, 1, nullptr) != expected)
          check::failed(traits_of(c.type).name, tokens, std::string("differs with ") + isa_name(isa));
      }
    }
  }
}

TEST(threads_and_token_counts_change_nothing) {
  std::mt19937 rng(3);
  const Isa isa = detect_isa();
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    const Input x = random_rows(130, c.cols, rng);
    const auto all = product(t, x.view, isa, 1, nullptr);
    CHECK(product(t, x.view, isa, 2, nullptr) == all);
    CHECK(product(t, x.view, isa, 3, nullptr) == all);
    for (const int64_t i : {int64_t{0}, int64_t{63}, int64_t{129}}) {
      const auto one = product(t, x.view.rows_at(i, 1), isa, 2, nullptr);
      CHECK(std::equal(one.begin(), one.end(), all.begin() + i * c.rows));
    }
  }
}

TEST(stacked_tensors_and_tables) {
  std::mt19937 rng(4);
  const Case a{TensorType::Q4_0, 37, 64}, b{TensorType::F16, 5, 64}, c{TensorType::Q8_0, 20, 64};
  const auto ra = random_tensor(a.type, a.rows, a.cols, rng), rb = random_tensor(b.type, b.rows, b.cols, rng),
             rc = random_tensor(c.type, c.rows, c.cols, rng);
  const TensorInfo ta = info_of(a, ra), tb = info_of(b, rb), tc = info_of(c, rc);
  const TensorInfo* parts[] = {&ta, &tb, &tc};
  ThreadPool pool(2);
  const Isa isa = detect_isa();
  const WeightPtr w = pack_weight(parts, isa, pool);
  CHECK_EQ(w->rows, 62);
  const Input x = random_rows(9, 64, rng);
  std::vector<float> out(9 * 62);
  MatmulScratch scratch;
  cpu_matmul(pool, matmul_kernels(isa), Mat(out.data(), 9, 62), static_cast<const CpuWeight&>(*w), x.view, nullptr,
             scratch);
  const auto pa = product(ta, x.view, isa, 1, nullptr), pb = product(tb, x.view, isa, 1, nullptr),
             pc = product(tc, x.view, isa, 1, nullptr);
  for (size_t i = 0; i < 9; ++i) {
    CHECK(std::equal(pa.begin() + static_cast<long>(i * 37), pa.begin() + static_cast<long>(i * 37 + 37),
                     out.begin() + static_cast<long>(i * 62)));
    CHECK(std::equal(pb.begin() + static_cast<long>(i * 5), pb.begin() + static_cast<long>(i * 5 + 5),
                     out.begin() + static_cast<long>(i * 62 + 37)));
    CHECK(std::equal(pc.begin() + static_cast<long>(i * 20), pc.begin() + static_cast<long>(i * 20 + 20),
                     out.begin() + static_cast<long>(i * 62 + 42)));
  }
  const WeightPtr table = table_weight(tc);
  const Buffer<float> values = dequantize_tensor(tc);
  const std::vector<int32_t> ids = {19, 0, 7};
  std::vector<float> rows(3 * 64);
  cpu_embed_rows(pool, Mat(rows.data(), 3, 64), static_cast<const CpuWeight&>(*table), ids);
  for (size_t i = 0; i < 3; ++i)
    CHECK(std::equal(rows.begin() + static_cast<long>(i * 64), rows.begin() + static_cast<long>(i * 64 + 64),
                     values.data() + ids[i] * 64));
}
