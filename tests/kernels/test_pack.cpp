// Panels of quantised rows against the layout that kernels/cpu/matmul.h describes, element by element, every type.
#include "kernels/cpu/pack.h"

#include <cmath>
#include <cstring>
#include <random>

#include "engine/core/error.h"
#include "kernels/cpu/scalar/half.h"
#include "tests/check.h"

using namespace foveal;

namespace {

int bits_at(const uint8_t* byte, int shift, int n) {
  return *byte >> shift & ((1 << n) - 1);
}

// The code of input k, by the drawing in matmul.h.
int code_at(const PanelLayout& l, const uint8_t* panel, int row, int64_t k) {
  const uint8_t* group = panel + l.code_offset + k / 32 * code_bytes(l.form);
  const int quad = static_cast<int>(k % 32) / 4, i = static_cast<int>(k % 4), at = row * 4 + i;
  if (l.form == kBytes) return group[quad * 64 + at];
  const int nibble = bits_at(group + quad % 4 * 64 + at, quad < 4 ? 0 : 4, 4);
  if (l.form == kFive) return nibble | bits_at(group + 256 + at, quad, 1) << 4;
  if (l.form == kSix) return nibble | bits_at(group + 256 + quad / 4 * 64 + at, 2 * (quad % 4), 2) << 4;
  return nibble;
}

uint16_t half_at(const uint8_t* panel, int64_t offset, int64_t sub, int row) {
  uint16_t half;
  std::memcpy(&half, panel + offset + (sub * kPanelRows + row) * 2, 2);
  return half;
}

struct Parts {
  std::vector<uint8_t> codes;
  std::vector<float> d, m;
};

Parts parts_of(TensorType type, const uint8_t* row, int64_t cols) {
  const auto n = static_cast<size_t>(cols);
  Parts p{std::vector<uint8_t>(n), std::vector<float>(n), std::vector<float>(n)};
  unpack_affine(type, row, cols, p.codes.data(), p.d.data(), p.m.data());
  return p;
}

// The row's scales in its unit, a power of two: the largest in [2^14, 2^15) unless it is below 2^-100, the others
// rounded to half precision.
void check_row(const std::string& name, TensorType type, const PanelLayout& l, const uint8_t* panel, int row,
               const uint8_t* raw, int64_t cols) {
  const Parts p = parts_of(type, raw, cols);
  const int64_t subs = cols / l.affine.sub;
  float unit, most = 0;
  std::memcpy(&unit, panel + row * 4, 4);
  for (int64_t s = 0; s < subs; ++s) {
    most = std::max(most, std::fabs(p.d[static_cast<size_t>(s)]));
    if (l.affine.mins) most = std::max(most, std::fabs(p.m[static_cast<size_t>(s)]));
  }
  int exponent;
  CHECK(std::frexp(unit, &exponent) == 0.5f);
  if (most < 0x1p-100f) {
    CHECK_EQ(unit, most == 0 ? 1.0f : 0x1p-114f);
  } else {
    CHECK(most / unit >= 0x1p14f && most / unit < 0x1p15f);
  }
  const auto is = [&](const std::vector<float>& x, int64_t s, int64_t offset) {
    const float in_units = x[static_cast<size_t>(s)] / unit;
    return half_at(panel, offset, s, row) == scalar::float_to_half(in_units);
  };
  for (int64_t s = 0; s < subs; ++s)
    if (!is(p.d, s, l.d_offset) || (l.affine.mins && !is(p.m, s, l.m_offset)))
      check::failed(name.c_str(), row, cat("scales of sub-block ", s));
  for (int64_t k = 0; k < cols; ++k)
    if (code_at(l, panel, row, k) != p.codes[static_cast<size_t>(k)])
      check::failed(name.c_str(), row,
                    cat("code of input ", k, ": found ", code_at(l, panel, row, k), ", expected ",
                        int{p.codes[static_cast<size_t>(k)]}));
}

std::vector<TensorType> affine_types() {
  std::vector<TensorType> types;
  for (int32_t id = 0; id < 64; ++id)
    if (type_traits(id) && affine_format(static_cast<TensorType>(id)).bits > 0)
      types.push_back(static_cast<TensorType>(id));
  return types;
}

bool has_number_scales(TensorType type, const uint8_t* row, int64_t cols) {
  const Parts p = parts_of(type, row, cols);
  const auto finite = [](float v) { return std::isfinite(v); };
  return std::all_of(p.d.begin(), p.d.end(), finite) && std::all_of(p.m.begin(), p.m.end(), finite);
}

// Blocks of random bytes: scales of every size, zeros and subnormal ones among them; those that are no number are left
// to the other test.
std::vector<uint8_t> random_rows(TensorType type, int64_t n, int64_t cols, std::mt19937& rng) {
  const TypeTraits& t = traits_of(type);
  const int64_t bytes = cols / t.block_elements * t.block_bytes;
  std::vector<uint8_t> raw(static_cast<size_t>(n * bytes));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t b = 0; b < bytes; b += t.block_bytes) {
      uint8_t* block = raw.data() + r * bytes + b;
      do {
        for (int64_t i = 0; i < t.block_bytes; ++i) block[i] = static_cast<uint8_t>(rng());
        if (rng() % 8 == 0) block[0] = block[1] = block[t.block_bytes - 1] = block[t.block_bytes - 2] = 0;
      } while (!has_number_scales(type, block, t.block_elements));
    }
  return raw;
}

}  // namespace

TEST(every_type_as_drawn) {
  std::mt19937 rng(1);
  int types = 0;
  for (const TensorType type : affine_types()) {
    ++types;
    const TypeTraits& t = traits_of(type);
    for (const int64_t blocks : {1, 2, 3, 9, 11})
      for (const int n : {1, 7, 16}) {
        const int64_t cols = blocks * t.block_elements, bytes = blocks * t.block_bytes;
        const auto raw = random_rows(type, n, cols, rng);
        const PanelLayout l = panel_layout(affine_format(type), cols);
        std::vector<uint8_t> panel(static_cast<size_t>(l.bytes + 16), 0xaa);
        pack_panel(type, raw.data(), bytes, n, cols, l, panel.data());
        for (int r = 0; r < n; ++r)
          check_row(cat(t.name, " ", cols, " inputs, row"), type, l, panel.data(), r, raw.data() + r * bytes, cols);
        for (int r = n; r < 16; ++r) {
          CHECK_EQ(half_at(panel.data(), l.d_offset, 0, r), 0);
          CHECK_EQ(code_at(l, panel.data(), r, cols - 1), 0);
        }
        for (int i = 0; i < 16; ++i) CHECK_EQ(int{panel[static_cast<size_t>(l.bytes + i)]}, 0xaa);
      }
  }
  CHECK(types >= 20);
}

// Infinity or NaN in one block: NaN among the row's scales; the rows beside it are packed as ever.
TEST(scales_that_are_no_number) {
  std::mt19937 rng(2);
  for (const TensorType type : {TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0, TensorType::Q4_K}) {
    const TypeTraits& t = traits_of(type);
    const int64_t cols = 512, bytes = cols / t.block_elements * t.block_bytes;
    for (const uint16_t scale : {0x7c00, 0xfc00, 0x7e00, 0x7c01}) {
      auto raw = random_rows(type, 16, cols, rng);
      std::memcpy(raw.data() + 5 * bytes + t.block_bytes, &scale, 2);
      const PanelLayout l = panel_layout(affine_format(type), cols);
      std::vector<uint8_t> panel(static_cast<size_t>(l.bytes));
      pack_panel(type, raw.data(), bytes, 16, cols, l, panel.data());
      for (int r = 0; r < 16; ++r)
        if (r != 5) check_row(t.name, type, l, panel.data(), r, raw.data() + r * bytes, cols);
      const int64_t sub = t.block_elements / 32;
      CHECK(std::isnan(scalar::half_to_float(half_at(panel.data(), l.d_offset, sub, 5))));
    }
  }
}
