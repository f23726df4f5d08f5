// Dequantisation of IQ1, IQ2 and IQ3: groups of 8 elements are codebook entries with signs (IQ2, IQ3) or a shift (IQ1).
#include "kernels/quant/codebook.h"

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/blocks.h"
#include "kernels/quant/codebook_tables.h"

namespace foveal {

namespace {

using scalar::half_to_float;

// Seven stored sign bits; the eighth makes their number even.
uint8_t with_parity(uint32_t seven) {
  const uint32_t bits = seven & 127;
  return static_cast<uint8_t>(bits | (static_cast<uint32_t>(__builtin_popcount(bits)) & 1) << 7);
}

int element(uint64_t entry, int j) {
  return static_cast<int8_t>(entry >> (8 * j));
}

// Eight elements: scale * entry, negative where the sign bit is set (IQ2, IQ3), or scale * (entry + shift / 8) (IQ1).
struct Eight {
  float scale;
  uint64_t entry;
  uint8_t signs = 0;
  int shift = 0;
};

void put_floats(const Eight& e, float* out) {
  for (int j = 0; j < 8; ++j) {
    if (e.shift != 0) {
      out[j] = e.scale * (static_cast<float>(element(e.entry, j)) + static_cast<float>(e.shift) * 0.125f);
    } else {
      const float v = e.scale * static_cast<float>(element(e.entry, j));
      out[j] = e.signs >> j & 1 ? -v : v;
    }
  }
}

float code_scale(const Eight& e) {
  return e.shift != 0 ? e.scale * 0.125f : e.scale;
}

void put_codes(const Eight& e, int offset, uint8_t* codes) {
  for (int j = 0; j < 8; ++j) {
    const int entry = element(e.entry, j), plain = e.signs >> j & 1 ? -entry : entry;
    codes[j] = static_cast<uint8_t>(offset + (e.shift != 0 ? 8 * entry + e.shift : plain));
  }
}

uint64_t pair(uint32_t first, uint32_t second) {
  return uint64_t{second} << 32 | first;
}

float two_bit_scale(float d, int s) {
  return d * (0.5f + static_cast<float>(s)) * 0.25f;
}

template <class Put>
void iq2_xxs(const BlockIQ2_XXS& b, Put put) {
  for (int g = 0; g < 8; ++g) {
    const uint16_t* q = b.qs + 4 * g;
    const uint32_t index = q[0] | uint32_t{q[1]} << 16, signs = q[2] | uint32_t{q[3]} << 16;
    const float scale = two_bit_scale(half_to_float(b.d), static_cast<int>(signs >> 28));
    for (int l = 0; l < 4; ++l)
      put(g * 4 + l, Eight{scale, iq2_xxs_grid[index >> (8 * l) & 255], with_parity(signs >> (7 * l))});
  }
}

template <class Put>
void iq2_xs(const BlockIQ2_XS& b, Put put) {
  for (int i = 0; i < 32; ++i) {
    const float scale = two_bit_scale(half_to_float(b.d), b.scales[i / 4] >> (i % 4 < 2 ? 0 : 4) & 15);
    put(i, Eight{scale, iq2_xs_grid[b.qs[i] & 511], with_parity(b.qs[i] >> 9)});
  }
}

template <class Put>
void iq2_s(const BlockIQ2_S& b, Put put) {
  for (int i = 0; i < 32; ++i) {
    const float scale = two_bit_scale(half_to_float(b.d), b.scales[i / 4] >> (i % 4 < 2 ? 0 : 4) & 15);
    const int high = b.qh[i / 4] >> (2 * (i % 4)) & 3;
    put(i, Eight{scale, iq2_s_grid[b.qs[i] | high << 8], b.signs[i]});
  }
}

template <class Put>
void iq3_xxs(const BlockIQ3_XXS& b, Put put) {
  for (int i = 0; i < 32; ++i) {
    const uint32_t signs = b.scales_signs[i / 4];
    const float scale = half_to_float(b.d) * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
    put(i, Eight{scale, pair(iq3_xxs_grid[b.qs[2 * i]], iq3_xxs_grid[b.qs[2 * i + 1]]),
                 with_parity(signs >> (7 * (i % 4)))});
  }
}

template <class Put>
void iq3_s(const BlockIQ3_S& b, Put put) {
  for (int i = 0; i < 32; ++i) {
    const int s = b.scales[i / 8] >> (i / 4 % 2 ? 4 : 0) & 15;
    const float scale = half_to_float(b.d) * static_cast<float>(1 + 2 * s);
    const int high = b.qh[i / 4] >> (2 * (i % 4));
    const uint32_t first = iq3_s_grid[b.qs[2 * i] | (high & 1) << 8];
    put(i, Eight{scale, pair(first, iq3_s_grid[b.qs[2 * i + 1] | (high & 2) << 7]), b.signs[i]});
  }
}

template <class Put>
void iq1_s(const BlockIQ1_S& b, Put put) {
  for (int i = 0; i < 32; ++i) {
    const uint16_t qh = b.qh[i / 4];
    const float scale = half_to_float(b.d) * static_cast<float>(2 * (qh >> 12 & 7) + 1);
    put(i, Eight{scale, iq1_s_grid[b.qs[i] | (qh >> (3 * (i % 4)) & 7) << 8], 0, qh & 0x8000 ? -1 : 1});
  }
}

template <class Put>
void iq1_m(const BlockIQ1_M& b, Put put) {
  const auto bits = static_cast<uint16_t>((b.scales[0] >> 12) | (b.scales[1] >> 8 & 0xf0) | (b.scales[2] >> 4 & 0xf00) |
                                          (b.scales[3] & 0xf000));
  const float d = half_to_float(bits);
  for (int i = 0; i < 32; ++i) {
    const int s = b.scales[i / 8] >> (3 * (i / 2 % 4)) & 7;
    const int nibble = b.qh[i / 2] >> (4 * (i % 2)) & 15;
    put(i, Eight{d * static_cast<float>(2 * s + 1), iq1_s_grid[b.qs[i] | (nibble & 7) << 8], 0, nibble & 8 ? -1 : 1});
  }
}

// Calls put(block, group of eight in it, Eight) for all groups.
template <class Block, class One, class Put>
void each(const uint8_t* src, int64_t n, One one, Put put) {
  const auto* blocks = reinterpret_cast<const Block*>(src);
  for (int64_t b = 0; b < n / 256; ++b) one(blocks[b], [&](int i, const Eight& e) { put(b * 256 + i * 8, e); });
}

template <class Put>
void visit(TensorType type, const uint8_t* src, int64_t n, Put put) {
  switch (type) {
    case TensorType::IQ2_XXS:
      return each<BlockIQ2_XXS>(
          src, n, [](const auto& b, auto to) { iq2_xxs(b, to); }, put);
    case TensorType::IQ2_XS:
      return each<BlockIQ2_XS>(
          src, n, [](const auto& b, auto to) { iq2_xs(b, to); }, put);
    case TensorType::IQ2_S:
      return each<BlockIQ2_S>(
          src, n, [](const auto& b, auto to) { iq2_s(b, to); }, put);
    case TensorType::IQ3_XXS:
      return each<BlockIQ3_XXS>(
          src, n, [](const auto& b, auto to) { iq3_xxs(b, to); }, put);
    case TensorType::IQ3_S:
      return each<BlockIQ3_S>(
          src, n, [](const auto& b, auto to) { iq3_s(b, to); }, put);
    case TensorType::IQ1_S:
      return each<BlockIQ1_S>(
          src, n, [](const auto& b, auto to) { iq1_s(b, to); }, put);
    case TensorType::IQ1_M:
      return each<BlockIQ1_M>(
          src, n, [](const auto& b, auto to) { iq1_m(b, to); }, put);
    default:
      return;
  }
}

}  // namespace

bool is_codebook(TensorType type) {
  switch (type) {
    case TensorType::IQ2_XXS:
    case TensorType::IQ2_XS:
    case TensorType::IQ2_S:
    case TensorType::IQ3_XXS:
    case TensorType::IQ3_S:
    case TensorType::IQ1_S:
    case TensorType::IQ1_M:
      return true;
    default:
      return false;
  }
}

void dequantize_codebook(TensorType type, const uint8_t* src, float* dst, int64_t n) {
  visit(type, src, n, [dst](int64_t at, const Eight& e) { put_floats(e, dst + at); });
}

void unpack_codebook(TensorType type, const uint8_t* src, int64_t n, int offset, int sub, uint8_t* codes, float* d) {
  visit(type, src, n, [=](int64_t at, const Eight& e) {
    put_codes(e, offset, codes + at);
    d[at / sub] = code_scale(e);
  });
}

void codebook_scales(TensorType type, const uint8_t* src, int64_t n, int sub, float* d) {
  visit(type, src, n, [=](int64_t at, const Eight& e) { d[at / sub] = code_scale(e); });
}

}  // namespace foveal
