// Matrix products of every weight type: against double precision, the same bits for every instruction set, number of
// threads and number of tokens.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "engine/backend/cpu_weight.h"
#include "engine/core/error.h"
#include "kernels/cpu/scalar/half.h"
#include "tests/check.h"
#include "tests/kernels/matmul_inputs.h"

using namespace foveal;
using namespace matmul_inputs;

namespace {

// Every type; rows that end inside a panel, pairs of panels, inputs of one block, more than one range of inputs.
const Case kCases[] = {
    {TensorType::F32, 33, 300},     {TensorType::F16, 50, 129},    {TensorType::BF16, 17, 515},
    {TensorType::Q4_0, 37, 96},     {TensorType::Q4_1, 16, 64},    {TensorType::Q5_0, 15, 32},
    {TensorType::Q5_1, 70, 160},    {TensorType::Q8_0, 49, 96},    {TensorType::Q2_K, 18, 256},
    {TensorType::Q3_K, 33, 512},    {TensorType::Q4_K, 40, 256},   {TensorType::Q5_K, 17, 256},
    {TensorType::Q6_K, 31, 512},    {TensorType::IQ4_NL, 20, 64},  {TensorType::IQ4_XS, 9, 256},
    {TensorType::IQ2_XXS, 35, 256}, {TensorType::IQ2_XS, 16, 512}, {TensorType::IQ2_S, 16, 256},
    {TensorType::IQ3_XXS, 34, 256}, {TensorType::IQ3_S, 5, 512},   {TensorType::IQ1_S, 33, 256},
    {TensorType::IQ1_M, 18, 512},   {TensorType::TQ1_0, 36, 256},  {TensorType::TQ2_0, 1, 256},
    {TensorType::MXFP4, 47, 96},    {TensorType::Q4_0, 37, 1056},  {TensorType::Q4_K, 20, 1280},
    {TensorType::Q6_K, 33, 768},
};

std::vector<float> product(const TensorInfo& t, ConstMat x, Isa isa, int threads, const float* bias,
                           const MatmulKernels* kernels = nullptr, const AmxKernels* amx = nullptr) {
  ThreadPool pool(threads);
  const TensorInfo* p = &t;
  const WeightPtr w = pack_weight(std::span(&p, 1));
  CHECK_EQ(static_cast<const CpuWeight&>(*w).quantised, affine_format(t.type).bits > 0);
  std::vector<float> out(static_cast<size_t>(x.rows * t.rows()), -99.0f);
  MatmulScratch scratch;
  cpu_matmul(pool, kernels ? *kernels : matmul_kernels(isa), Mat(out.data(), x.rows, t.rows()),
             static_cast<const CpuWeight&>(*w), x, bias, scratch, amx);
  return out;
}

}  // namespace

namespace {

struct Reference {
  double value, bound;
};

// One output in double precision, and how far rounding may move a result from it:
// - quantised: each activation by half a step of its block (amax / 127 / 2), each scale and min by 2^-11 of itself
//   (half precision), each of the additions by 2^-24 of the sum of magnitudes;
// - floating: only the additions.
Reference reference(const TensorInfo& t, const float* w, const float* x, int64_t row) {
  const AffineFormat f = affine_format(t.type);
  const int64_t cols = t.cols();
  std::vector<uint8_t> codes(static_cast<size_t>(cols));
  std::vector<float> d(codes.size()), m(codes.size());
  const TypeTraits& traits = traits_of(t.type);
  const uint8_t* raw = t.data + row * cols / traits.block_elements * traits.block_bytes;
  if (f.bits > 0) unpack_affine(t.type, raw, cols, codes.data(), d.data(), m.data());
  double exact = 0, moved = 0, size = 0;
  for (int64_t k = 0; k < cols; ++k) {
    const auto i = static_cast<size_t>(k), sub = static_cast<size_t>(k / f.sub);
    double amax = 0, weight = std::fabs(w[k]);
    if (f.bits > 0) {
      for (int64_t j = k / 32 * 32; j < k / 32 * 32 + 32; ++j) amax = std::max<double>(amax, std::fabs(x[j]));
      weight = std::fabs(double{d[sub]} * (f.value(codes[i]) - f.offset)) + (f.mins ? std::fabs(m[sub]) : 0.0);
    }
    const double step = amax / 127 / 2 * (1 + 0x1p-20);
    exact += double{x[k]} * w[k];
    moved += std::fabs(w[k]) * step;
    size += (std::fabs(x[k]) + step) * weight;
  }
  const double additions = f.bits > 0 ? 4.0 * static_cast<double>(cols) / 16 + 4 : static_cast<double>(cols) + 1;
  return {exact, moved + size * ((f.bits > 0 ? 0x1.01p-11 : 0) + additions * 0x1p-24)};
}

void check_against_reference(const Case& c, float scale, std::mt19937& rng) {
  const auto raw = random_tensor(c.type, c.rows, c.cols, rng, scale);
  const TensorInfo t = info_of(c, raw);
  const Buffer<float> w = dequantize_tensor(t);
  const Input x = random_rows(17, c.cols, rng);
  const auto out = product(t, x.view, Isa::scalar, 1, nullptr);
  for (int64_t i = 0; i < 17; ++i)
    for (int64_t o = 0; o < c.rows; ++o) {
      const Reference r = reference(t, w.data() + o * c.cols, x.view.row(i), o);
      const double found = out[static_cast<size_t>(i * c.rows + o)];
      if (!(std::fabs(found - r.value) <= r.bound))
        check::failed(traits_of(c.type).name, static_cast<int>(o),
                      cat(found, " vs ", r.value, ", bound ", r.bound, ", scale ", scale));
    }
}

}  // namespace

TEST(close_to_double_precision) {
  std::mt19937 rng(1);
  for (const Case& c : kCases) check_against_reference(c, 0.125f, rng);
}

// Scales near the end of half precision, as in real K-quants, lose nothing: rows have their own unit.
TEST(small_scales_keep_their_precision) {
  std::mt19937 rng(5);
  for (const Case& c : kCases)
    if (affine_format(c.type).bits > 0) check_against_reference(c, 0x1p-13f, rng);
}

TEST(bias_is_added_last) {
  std::mt19937 rng(6);
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    std::vector<float> bias(static_cast<size_t>(c.rows));
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i) - 3.5f;
    for (const int tokens : {1, 20}) {
      const Input x = random_rows(tokens, c.cols, rng);
      auto expected = product(t, x.view, detect_isa(), 1, nullptr);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % bias.size()];
      CHECK(product(t, x.view, detect_isa(), 1, bias.data()) == expected);
    }
  }
}

// A scale that is no number spoils its row alone.
TEST(infinite_scales_stay_in_their_row) {
  std::mt19937 rng(8);
  const Case c{TensorType::Q4_K, 20, 256};
  auto raw = random_tensor(c.type, c.rows, c.cols, rng);
  const uint16_t infinity = 0x7c00;
  std::memcpy(raw.data() + 3 * traits_of(c.type).block_bytes, &infinity, 2);
  const TensorInfo t = info_of(c, raw);
  const Buffer<float> w = dequantize_tensor(t);
  const Input x = random_rows(2, c.cols, rng);
  const TensorInfo* part = &t;
  ThreadPool pool(1);
  const WeightPtr packed = pack_weight(std::span(&part, 1));
  std::vector<float> out(2 * 20);
  MatmulScratch scratch;
  cpu_matmul(pool, matmul_kernels(detect_isa()), Mat(out.data(), 2, 20), static_cast<const CpuWeight&>(*packed), x.view,
             nullptr, scratch);
  for (int64_t o = 0; o < c.rows; ++o) {
    const Reference r = reference(t, w.data() + o * c.cols, x.view.row(1), o);
    const float found = out[static_cast<size_t>(20 + o)];
    CHECK(o == 3 ? !std::isfinite(found) : std::fabs(found - r.value) <= r.bound);
  }
}

// What is no number among a token's inputs shows in all of its outputs, and in no other's.
TEST(broken_inputs_stay_broken) {
  std::mt19937 rng(9);
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    for (const int tokens : {1, 5, 9, 17})
      for (const float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
          if (!isa_available(isa)) continue;
          const Input x = random_rows(tokens, c.cols, rng);
          std::vector<float> values;
          for (int64_t i = 0; i < tokens; ++i) values.insert(values.end(), x.view.row(i), x.view.row(i) + c.cols);
          const auto at = static_cast<size_t>(tokens / 2);
          values[at * static_cast<size_t>(c.cols) + rng() % static_cast<size_t>(c.cols)] = broken;
          const ConstMat y(values.data(), tokens, c.cols);
          const auto found = product(t, y, isa, 1, nullptr), clean = product(t, x.view, isa, 1, nullptr);
          const auto rows = static_cast<size_t>(c.rows);
          for (size_t i = 0; i < found.size(); ++i)
            if (i / rows == at ? std::isfinite(found[i]) : found[i] != clean[i])
              check::failed(traits_of(c.type).name, tokens,
                            cat("broken input at ", i, " with ", isa_name(isa)).c_str());
        }
  }
}

// Once the largest matrix has been seen, nothing is allocated.
TEST(scratch_does_not_grow_again) {
  std::mt19937 rng(7);
  const Case c{TensorType::Q4_0, 40, 64}, f{TensorType::F16, 40, 64};
  for (const Case& each : {c, f}) {
    const auto raw = random_tensor(each.type, each.rows, each.cols, rng);
    const TensorInfo t = info_of(each, raw);
    const TensorInfo* part = &t;
    ThreadPool pool(2);
    const WeightPtr w = pack_weight(std::span(&part, 1));
    const Input x = random_rows(40, each.cols, rng);
    std::vector<float> out(40 * 40);
    MatmulScratch s;
    const auto run = [&](int64_t tokens) {
      cpu_matmul(pool, matmul_kernels(detect_isa()), Mat(out.data(), tokens, each.rows),
                 static_cast<const CpuWeight&>(*w), x.view.rows_at(0, tokens), nullptr, s);
    };
    run(40);
    const void* places[] = {s.quads.data(),  s.scales.data(), s.sums[0].data(),
                            s.packed.data(), s.codes.data(),  s.values.data()};
    for (const int64_t tokens : {1, 7, 16, 40}) run(tokens);
    const void* after[] = {s.quads.data(),  s.scales.data(), s.sums[0].data(),
                           s.packed.data(), s.codes.data(),  s.values.data()};
    CHECK(std::equal(std::begin(places), std::end(places), after));
  }
}

TEST(every_instruction_set_gives_the_same_bits) {
  std::mt19937 rng(2);
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    for (const int tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 31, 70}) {
      const Input x = random_rows(tokens, c.cols, rng);
      const auto expected = product(t, x.view, Isa::scalar, 1, nullptr);
      for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::neon}) {
        if (!isa_available(isa)) continue;
        if (product(t, x.view, isa, 1, nullptr) != expected)
          check::failed(traits_of(c.type).name, tokens, std::string("differs with ") + isa_name(isa));
      }
      const AmxKernels* amx = amx_kernels(Isa::avx512);
      if (amx && tokens >= 16 && product(t, x.view, Isa::avx512, 1, nullptr, nullptr, amx) != expected)
        check::failed(traits_of(c.type).name, tokens, "differs with tiles");
#if defined(__x86_64__)  // the one that matmul_kernels(avx2) doesn't choose where there is AVX-VNNI
      if (isa_available(Isa::avx2) && product(t, x.view, Isa::avx2, 1, nullptr, &avx2::matmul) != expected)
        check::failed(traits_of(c.type).name, tokens, "differs with avx2 without dot products");
#endif
#if defined(__aarch64__)
      if (isa_available(Isa::neon) && product(t, x.view, Isa::neon, 1, nullptr, &neon::matmul) != expected)
        check::failed(traits_of(c.type).name, tokens, "differs with neon without matrix products");
#endif
    }
  }
}

TEST(threads_and_token_counts_change_nothing) {
  std::mt19937 rng(3);
  const Isa isa = detect_isa();
  for (const Case& c : kCases) {
    const auto raw = random_tensor(c.type, c.rows, c.cols, rng);
    const TensorInfo t = info_of(c, raw);
    const Input x = random_rows(620, c.cols, rng);
    const auto all = product(t, x.view, isa, 1, nullptr);
    CHECK(product(t, x.view, isa, 2, nullptr) == all);
    CHECK(product(t, x.view, isa, 3, nullptr) == all);
    if (amx_kernels(isa)) CHECK(product(t, x.view, isa, 3, nullptr, nullptr, amx_kernels(isa)) == all);
    for (const int64_t i : {int64_t{0}, int64_t{63}, int64_t{619}}) {
      const auto one = product(t, x.view.rows_at(i, 1), isa, 2, nullptr);
      CHECK(std::equal(one.begin(), one.end(), all.begin() + i * c.rows));
    }
  }
}

// The first product reads the file, the second packs for good, later ones find that done; one that would read the file
// often, of quantised types more than once, packs at once.
TEST(the_same_before_and_after_packing) {
  std::mt19937 rng(9);
  for (const Case& c : kCases) {
    const Case tall{c.type, 16 * 24 + 3, c.cols};  // room for the passing panels of three workers
    const auto raw = random_tensor(tall.type, tall.rows, tall.cols, rng);
    const TensorInfo t = info_of(tall, raw);
    const TensorInfo* part = &t;
    const bool floating = affine_format(c.type).bits == 0;
    const int64_t once = floating ? 1200 : 100, often = floating ? 1201 : 300;
    const Input x = random_rows(often, c.cols, rng);
    const auto expected = product(t, x.view, detect_isa(), 1, nullptr);
    std::vector<float> out(expected.size());
    for (const int threads : {1, 3})
      for (const int64_t first : {int64_t{1}, int64_t{20}, once, often}) {
        ThreadPool pool(threads);
        const WeightPtr w = pack_weight(std::span(&part, 1));
        const auto& weight = static_cast<const CpuWeight&>(*w);
        MatmulScratch scratch;
        const auto run = [&](int64_t tokens) {
          std::fill(out.begin(), out.end(), -99.0f);
          cpu_matmul(pool, matmul_kernels(detect_isa()), Mat(out.data(), tokens, tall.rows), weight,
                     x.view.rows_at(0, tokens), nullptr, scratch, amx_kernels(detect_isa()));
          if (!std::equal(out.begin(), out.begin() + tokens * tall.rows, expected.begin()))
            check::failed(traits_of(c.type).name, static_cast<int>(tokens), cat("first ", first, ", ", threads));
        };
        CHECK(!weight.packed);
        run(first);
        CHECK_EQ(weight.packed, first == often);
        run(20);
        CHECK(weight.packed);
        for (const int64_t tokens : {int64_t{1}, often}) run(tokens);
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
  const WeightPtr w = pack_weight(parts);
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
