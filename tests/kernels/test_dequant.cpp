// Every tensor type dequantises to the bits that the gguf package gives, on random blocks; affine codes mean the same.
#include <cstdint>
#include <fstream>
#include <vector>

#include "kernels/quant/dequant.h"
#include "tests/check.h"

using namespace foveal;

namespace {

struct Sample {
  TensorType type;
  std::vector<uint8_t> raw;
  std::vector<float> values;
};

// random_blocks.bin: count, then per type: id, bytes, elements, the blocks, gguf.quants.dequantize of them.
std::vector<Sample> samples() {
  std::ifstream in(FOVEAL_TEST_DATA "/quants/random_blocks.bin", std::ios::binary);
  const auto u32 = [&] {
    uint32_t v = 0;
    in.read(reinterpret_cast<char*>(&v), 4);
    return v;
  };
  std::vector<Sample> all(u32());
  for (Sample& s : all) {
    s.type = static_cast<TensorType>(u32());
    s.raw.resize(u32());
    s.values.resize(u32());
    in.read(reinterpret_cast<char*>(s.raw.data()), static_cast<std::streamsize>(s.raw.size()));
    in.read(reinterpret_cast<char*>(s.values.data()), static_cast<std::streamsize>(s.values.size() * 4));
  }
  return all;
}

}  // namespace

TEST(bits_equal_the_gguf_package) {
  const auto all = samples();
  CHECK_EQ(all.size(), 24u);
  for (const Sample& s : all) {
    std::vector<float> out(s.values.size());
    dequantize_row(s.type, s.raw.data(), out.data(), static_cast<int64_t>(out.size()));
    int wrong = 0;
    for (size_t i = 0; i < out.size(); ++i) wrong += !(out[i] == s.values[i]);  // 0 and -0 are the same number
    if (wrong > 0) check::failed(traits_of(s.type).name, 0, std::to_string(wrong) + " elements differ");
  }
}

TEST(affine_codes_mean_the_same) {
  int n_affine = 0;
  for (const Sample& s : samples()) {
    const AffineFormat f = affine_format(s.type);
    if (f.bits == 0) continue;
    ++n_affine;
    const auto n = s.values.size(), subs = n / static_cast<size_t>(f.sub);
    std::vector<uint8_t> codes(n);
    std::vector<float> d(subs), m(subs);
    unpack_affine(s.type, s.raw.data(), static_cast<int64_t>(n), codes.data(), d.data(), m.data());
    for (size_t i = 0; i < n; ++i) {
      const size_t sub = i / static_cast<size_t>(f.sub);
      CHECK(codes[i] < 1 << f.bits);
      const double exact = double{d[sub]} * (f.value(codes[i]) - f.offset) - (f.mins ? double{m[sub]} : 0.0);
      const double size = std::fabs(double{d[sub]} * (f.value(codes[i]) - f.offset)) + std::fabs(double{m[sub]});
      CHECK_NEAR(s.values[i], exact, size * 0x1p-23);
    }
  }
  CHECK_EQ(n_affine, 22);
}
