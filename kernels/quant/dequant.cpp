// Dequantisation of the types with scales and codes; those with codebooks: codebook.cpp.
#include "kernels/quant/dequant.h"

#include <cmath>
#include <cstring>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/blocks.h"
#include "kernels/quant/codebook.h"

namespace foveal {

namespace {

using scalar::half_to_float;

// The format's values -127, -104 .. 113 plus 128, and 0, 1 .. 12, 0, -1 .. -12 plus 12.
constexpr uint8_t kIq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t kFp4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// Element j of a 32-wide nibble block: low nibbles hold 0..15, high nibbles 16..31.
int nibble(const uint8_t* qs, int j) {
  return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
}

int fifth_bit(const uint8_t* qh, int j) {
  return (qh[j / 8] >> (j % 8) & 1) << 4;
}

// Scale and min of sub-block j of Q4_K and Q5_K: 6 bits each.
void scale_min(const uint8_t* s, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

int q2_at(const uint8_t* qs, int j) {
  return qs[(j / 128) * 32 + j % 32] >> (2 * (j % 128 / 32)) & 3;
}

// 6-bit scale k (0..15) of Q3_K, still with its offset of 32.
int q3_scale(const uint8_t* s, int k) {
  const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
  return low | (s[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
}

int q3_at(const BlockQ3_K& b, int j) {
  const int high = b.hmask[j % 32] >> (4 * (j / 128) + j % 128 / 32) & 1;
  return q2_at(b.qs, j) | high << 2;
}

int q4k_at(const uint8_t* qs, int j) {
  const uint8_t byte = qs[(j / 64) * 32 + j % 32];
  return j % 64 < 32 ? byte & 15 : byte >> 4;
}

int q6_at(const BlockQ6_K& b, int j) {
  const int half = j / 128, l = j % 32, part = j % 128 / 32;
  const uint8_t low = b.ql[half * 64 + l + (part & 1) * 32];
  const int four = part < 2 ? low & 15 : low >> 4;
  return four | (b.qh[half * 32 + l] >> (2 * part) & 3) << 4;
}

int tq1_at(const BlockTQ1_0& b, int j) {
  static constexpr uint8_t kPower[5] = {1, 3, 9, 27, 81};
  uint8_t byte;
  int n;
  if (j < 160) {
    byte = b.qs[j % 32];
    n = j / 32;
  } else if (j < 240) {
    byte = b.qs[32 + (j - 160) % 16];
    n = (j - 160) / 16;
  } else {
    byte = b.qh[(j - 240) % 4];
    n = (j - 240) / 4;
  }
  const auto shifted = static_cast<uint8_t>(byte * kPower[n]);
  return (shifted * 3) >> 8;
}

float mxfp4_scale(uint8_t e) {
  return e == 0 ? std::ldexp(1.0f, -128) : std::ldexp(1.0f, static_cast<int>(e) - 128);
}

// Calls set(j, code) for all elements and scale(s, d, m) for all sub-blocks of one block; ggml's order of roundings.
template <class Set, class Scale>
void visit(TensorType type, const uint8_t* p, Set set, Scale scale) {
  switch (type) {
    case TensorType::Q4_0: {
      const auto& b = *reinterpret_cast<const BlockQ4_0*>(p);
      scale(0, half_to_float(b.d), 0.0f);
      for (int j = 0; j < 16; ++j) set(j, b.qs[j] & 15);
      for (int j = 0; j < 16; ++j) set(16 + j, b.qs[j] >> 4);
      return;
    }
    case TensorType::Q4_1: {
      const auto& b = *reinterpret_cast<const BlockQ4_1*>(p);
      scale(0, half_to_float(b.d), -half_to_float(b.m));
      for (int j = 0; j < 32; ++j) set(j, nibble(b.qs, j));
      return;
    }
    case TensorType::Q5_0: {
      const auto& b = *reinterpret_cast<const BlockQ5_0*>(p);
      scale(0, half_to_float(b.d), 0.0f);
      for (int j = 0; j < 32; ++j) set(j, nibble(b.qs, j) | fifth_bit(b.qh, j));
      return;
    }
    case TensorType::Q5_1: {
      const auto& b = *reinterpret_cast<const BlockQ5_1*>(p);
      scale(0, half_to_float(b.d), -half_to_float(b.m));
      for (int j = 0; j < 32; ++j) set(j, nibble(b.qs, j) | fifth_bit(b.qh, j));
      return;
    }
    case TensorType::Q8_0: {
      const auto& b = *reinterpret_cast<const BlockQ8_0*>(p);
      scale(0, half_to_float(b.d), 0.0f);
      for (int j = 0; j < 32; ++j) set(j, b.qs[j] + 128);
      return;
    }
    case TensorType::Q2_K: {
      const auto& b = *reinterpret_cast<const BlockQ2_K*>(p);
      for (int s = 0; s < 16; ++s)
        scale(s, half_to_float(b.d) * static_cast<float>(b.scales[s] & 15),
              half_to_float(b.dmin) * static_cast<float>(b.scales[s] >> 4));
      for (int j = 0; j < 256; ++j) set(j, q2_at(b.qs, j));
      return;
    }
    case TensorType::Q3_K: {
      const auto& b = *reinterpret_cast<const BlockQ3_K*>(p);
      for (int s = 0; s < 16; ++s) scale(s, half_to_float(b.d) * static_cast<float>(q3_scale(b.scales, s) - 32), 0.0f);
      for (int j = 0; j < 256; ++j) set(j, q3_at(b, j));
      return;
    }
    case TensorType::Q4_K: {
      const auto& b = *reinterpret_cast<const BlockQ4_K*>(p);
      for (int s = 0; s < 8; ++s) {
        int sc, mn;
        scale_min(b.scales, s, &sc, &mn);
        scale(s, half_to_float(b.d) * static_cast<float>(sc), half_to_float(b.dmin) * static_cast<float>(mn));
      }
      for (int h = 0; h < 4; ++h) {
        for (int i = 0; i < 32; ++i) set(64 * h + i, b.qs[32 * h + i] & 15);
        for (int i = 0; i < 32; ++i) set(64 * h + 32 + i, b.qs[32 * h + i] >> 4);
      }
      return;
    }
    case TensorType::Q5_K: {
      const auto& b = *reinterpret_cast<const BlockQ5_K*>(p);
      for (int s = 0; s < 8; ++s) {
        int sc, mn;
        scale_min(b.scales, s, &sc, &mn);
        scale(s, half_to_float(b.d) * static_cast<float>(sc), half_to_float(b.dmin) * static_cast<float>(mn));
      }
      for (int j = 0; j < 256; ++j) set(j, q4k_at(b.qs, j) | (b.qh[j % 32] >> (j / 32) & 1) << 4);
      return;
    }
    case TensorType::Q6_K: {
      const auto& b = *reinterpret_cast<const BlockQ6_K*>(p);
      for (int s = 0; s < 16; ++s) scale(s, half_to_float(b.d) * static_cast<float>(b.scales[s]), 0.0f);
      for (int j = 0; j < 256; ++j) set(j, q6_at(b, j));
      return;
    }
    case TensorType::IQ4_NL: {
      const auto& b = *reinterpret_cast<const BlockIQ4_NL*>(p);
      scale(0, half_to_float(b.d), 0.0f);
      for (int j = 0; j < 32; ++j) set(j, nibble(b.qs, j));
      return;
    }
    case TensorType::IQ4_XS: {
      const auto& b = *reinterpret_cast<const BlockIQ4_XS*>(p);
      for (int s = 0; s < 8; ++s) {
        const int ls = (b.scales_l[s / 2] >> (4 * (s & 1)) & 15) | (b.scales_h >> (2 * s) & 3) << 4;
        scale(s, half_to_float(b.d) * static_cast<float>(ls - 32), 0.0f);
      }
      for (int j = 0; j < 256; ++j) set(j, nibble(b.qs + (j / 32) * 16, j % 32));
      return;
    }
    case TensorType::TQ1_0: {
      const auto& b = *reinterpret_cast<const BlockTQ1_0*>(p);
      for (int s = 0; s < 8; ++s) scale(s, half_to_float(b.d), 0.0f);
      for (int j = 0; j < 256; ++j) set(j, tq1_at(b, j));
      return;
    }
    case TensorType::TQ2_0: {
      const auto& b = *reinterpret_cast<const BlockTQ2_0*>(p);
      for (int s = 0; s < 8; ++s) scale(s, half_to_float(b.d), 0.0f);
      for (int j = 0; j < 256; ++j) set(j, q2_at(b.qs, j));
      return;
    }
    case TensorType::MXFP4: {
      const auto& b = *reinterpret_cast<const BlockMXFP4*>(p);
      scale(0, mxfp4_scale(b.e), 0.0f);
      for (int j = 0; j < 32; ++j) set(j, nibble(b.qs, j));
      return;
    }
    default:
      return;
  }
}

void dequantize_plain(TensorType type, const uint8_t* src, float* dst, int64_t n) {
  if (type == TensorType::F32) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, src + 2 * i, 2);
    dst[i] = type == TensorType::F16 ? half_to_float(bits) : scalar::bits_float(uint32_t{bits} << 16);
  }
}

}  // namespace

AffineFormat affine_format(TensorType type) {
  switch (type) {
    case TensorType::Q4_0:
      return {4, 32, 8, false};
    case TensorType::Q4_1:
      return {4, 32, 0, true};
    case TensorType::Q5_0:
      return {5, 32, 16, false};
    case TensorType::Q5_1:
      return {5, 32, 0, true};
    case TensorType::Q8_0:
      return {8, 32, 128, false};
    case TensorType::Q2_K:
      return {4, 16, 0, true};
    case TensorType::Q3_K:
      return {4, 16, 4, false};
    case TensorType::Q4_K:
      return {4, 32, 0, true};
    case TensorType::Q5_K:
      return {5, 32, 0, true};
    case TensorType::Q6_K:
      return {6, 16, 32, false};
    case TensorType::IQ4_NL:
    case TensorType::IQ4_XS:
      return {4, 32, 128, false, kIq4};
    case TensorType::TQ1_0:
    case TensorType::TQ2_0:
      return {4, 32, 1, false};
    case TensorType::MXFP4:
      return {4, 32, 12, false, kFp4};
    case TensorType::IQ2_XXS:
    case TensorType::IQ3_XXS:
      return {8, 32, 64, false};
    case TensorType::IQ2_XS:
    case TensorType::IQ2_S:
      return {8, 16, 64, false};
    case TensorType::IQ3_S:
      return {5, 32, 16, false};
    case TensorType::IQ1_S:
      return {5, 32, 9, false};
    case TensorType::IQ1_M:
      return {5, 16, 9, false};
    default:
      return {};
  }
}

void unpack_affine(TensorType type, const void* src, int64_t n, uint8_t* codes, float* d, float* m) {
  const TypeTraits& t = traits_of(type);
  const AffineFormat f = affine_format(type);
  const auto* p = static_cast<const uint8_t*>(src);
  if (is_codebook(type)) return unpack_codebook(type, p, n, f.offset, f.sub, codes, d);
  uint8_t block[256];  // of its own, so that the loops over a block's codes become vectors
  for (int64_t b = 0; b < n / t.block_elements; ++b, p += t.block_bytes) {
    const int64_t first = b * t.block_elements, sub = first / f.sub;
    visit(
        type, p, [&block](int j, int code) { block[j] = static_cast<uint8_t>(code); },
        [&](int s, float scale, float min) {
          d[sub + s] = scale;
          if (f.mins) m[sub + s] = min;
        });
    std::memcpy(codes + first, block, static_cast<size_t>(t.block_elements));
  }
}

void affine_scales(TensorType type, const void* src, int64_t n, float* d, float* m) {
  const TypeTraits& t = traits_of(type);
  const AffineFormat f = affine_format(type);
  const auto* p = static_cast<const uint8_t*>(src);
  if (is_codebook(type)) return codebook_scales(type, p, n, f.sub, d);
  for (int64_t b = 0; b < n / t.block_elements; ++b, p += t.block_bytes) {
    const int64_t sub = b * t.block_elements / f.sub;
    visit(
        type, p, [](int, int) {},
        [&](int s, float scale, float min) {
          d[sub + s] = scale;
          if (f.mins) m[sub + s] = min;
        });
  }
}

void dequantize_row(TensorType type, const void* src, float* dst, int64_t n) {
  const auto* p = static_cast<const uint8_t*>(src);
  const AffineFormat f = affine_format(type);
  const TypeTraits& t = traits_of(type);
  if (t.block_elements == 1) return dequantize_plain(type, p, dst, n);
  if (is_codebook(type)) return dequantize_codebook(type, p, dst, n);
  for (int64_t b = 0; b < n / t.block_elements; ++b, p += t.block_bytes) {
    float d[16], m[16];
    float* out = dst + b * t.block_elements;
    visit(
        type, p, [&](int j, int code) { out[j] = static_cast<float>(f.value(code) - f.offset); },
        [&](int s, float scale, float min) {
          d[s] = scale;
          m[s] = min;
        });
    for (int j = 0; j < t.block_elements; ++j) {
      const float product = out[j] * d[j / f.sub];
      out[j] = f.mins ? product - m[j / f.sub] : product;
    }
  }
}

}  // namespace foveal
