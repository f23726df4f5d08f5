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

float element(uint64_t entry, int j) {
  return static_cast<float>(static_cast<int8_t>(entry >> (8 * j)));
}

// Eight elements: scale * entry, negative where the sign bit is set.
void put(float* out, float scale, uint64_t entry, uint8_t signs) {
  for (int j = 0; j < 8; ++j) {
    const float v = scale * element(entry, j);
    out[j] = signs >> j & 1 ? -v : v;
  }
}

uint64_t pair(uint32_t first, uint32_t second) {
  return uint64_t{second} << 32 | first;
}

float two_bit_scale(float d, int s) {
  return d * (0.5f + static_cast<float>(s)) * 0.25f;
}

void iq2_xxs(const BlockIQ2_XXS& b, float* out) {
  for (int g = 0; g < 8; ++g) {
    const uint16_t* q = b.qs + 4 * g;
    const uint32_t index = q[0] | uint32_t{q[1]} << 16, signs = q[2] | uint32_t{q[3]} << 16;
    const float scale = two_bit_scale(half_to_float(b.d), static_cast<int>(signs >> 28));
    for (int l = 0; l < 4; ++l)
      put(out + g * 32 + l * 8, scale, iq2_xxs_grid[index >> (8 * l) & 255], with_parity(signs >> (7 * l)));
  }
}

void iq2_xs(const BlockIQ2_XS& b, float* out) {
  for (int i = 0; i < 32; ++i) {
    const float scale = two_bit_scale(half_to_float(b.d), b.scales[i / 4] >> (i % 4 < 2 ? 0 : 4) & 15);
    put(out + i * 8, scale, iq2_xs_grid[b.qs[i] & 511], with_parity(b.qs[i] >> 9));
  }
}

void iq2_s(const BlockIQ2_S& b, float* out) {
  for (int i = 0; i < 32; ++i) {
    const float scale = two_bit_scale(half_to_float(b.d), b.scales[i / 4] >> (i % 4 < 2 ? 0 : 4) & 15);
    const int high = b.qh[i / 4] >> (2 * (i % 4)) & 3;
    put(out + i * 8, scale, iq2_s_grid[b.qs[i] | high << 8], b.signs[i]);
  }
}

void iq3_xxs(const BlockIQ3_XXS& b, float* out) {
  for (int i = 0; i < 32; ++i) {
    const uint32_t signs = b.scales_signs[i / 4];
    const float scale = half_to_float(b.d) * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
    put(out + i * 8, scale, pair(iq3_xxs_grid[b.qs[2 * i]], iq3_xxs_grid[b.qs[2 * i + 1]]),
        with_parity(signs >> (7 * (i % 4))));
  }
}

void iq3_s(const BlockIQ3_S& b, float* out) {
  for (int i = 0; i < 32; ++i) {
    const int s = b.scales[i / 8] >> (i / 4 % 2 ? 4 : 0) & 15;
    const float scale = half_to_float(b.d) * static_cast<float>(1 + 2 * s);
    const int high = b.qh[i / 4] >> (2 * (i % 4));
    put(out + i * 8, scale,
        pair(iq3_s_grid[b.qs[2 * i] | (high & 1) << 8], iq3_s_grid[b.qs[2 * i + 1] | (high & 2) << 7]), b.signs[i]);
  }
}

void put_shifted(float* out, float scale, uint64_t entry, bool down) {
  const float shift = down ? -0.125f : 0.125f;
  for (int j = 0; j < 8; ++j) out[j] = scale * (element(entry, j) + shift);
}

void iq1_s(const BlockIQ1_S& b, float* out) {
  for (int i = 0; i < 32; ++i) {
    const uint16_t qh = b.qh[i / 4];
    const float scale = half_to_float(b.d) * static_cast<float>(2 * (qh >> 12 & 7) + 1);
    put_shifted(out + i * 8, scale, iq1_s_grid[b.qs[i] | (qh >> (3 * (i % 4)) & 7) << 8], qh & 0x8000);
  }
}

void iq1_m(const BlockIQ1_M& b, float* out) {
  const auto bits = static_cast<uint16_t>((b.scales[0] >> 12) | (b.scales[1] >> 8 & 0xf0) | (b.scales[2] >> 4 & 0xf00) |
                                          (b.scales[3] & 0xf000));
  const float d = half_to_float(bits);
  for (int i = 0; i < 32; ++i) {
    const int s = b.scales[i / 8] >> (3 * (i / 2 % 4)) & 7;
    const int nibble = b.qh[i / 2] >> (4 * (i % 2)) & 15;
    put_shifted(out + i * 8, d * static_cast<float>(2 * s + 1), iq1_s_grid[b.qs[i] | (nibble & 7) << 8], nibble & 8);
  }
}

template <class Block>
void each(const uint8_t* src, float* dst, int64_t n, void (*one)(const Block&, float*)) {
  const auto* blocks = reinterpret_cast<const Block*>(src);
  for (int64_t b = 0; b < n / 256; ++b) one(blocks[b], dst + b * 256);
}

}  // namespace

void dequantize_codebook(TensorType type, const uint8_t* src, float* dst, int64_t n) {
  switch (type) {
    case TensorType::IQ2_XXS:
      return each(src, dst, n, iq2_xxs);
    case TensorType::IQ2_XS:
      return each(src, dst, n, iq2_xs);
    case TensorType::IQ2_S:
      return each(src, dst, n, iq2_s);
    case TensorType::IQ3_XXS:
      return each(src, dst, n, iq3_xxs);
    case TensorType::IQ3_S:
      return each(src, dst, n, iq3_s);
    case TensorType::IQ1_S:
      return each(src, dst, n, iq1_s);
    case TensorType::IQ1_M:
      return each(src, dst, n, iq1_m);
    default:
      return;
  }
}

}  // namespace foveal
