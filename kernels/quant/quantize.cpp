// Quantisers of the types with one scale a block; those with blocks inside blocks: quantize_k.cpp.
#include "kernels/quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/scalar/half.h"
#include "kernels/quant/blocks.h"
#include "kernels/quant/quantize_k.h"

namespace foveal {

namespace {

using scalar::float_to_half;

constexpr int kBlock = 32;

// The element of largest magnitude, the first of equals, with its sign.
float largest(const float* x) {
  float best = 0;
  for (int j = 0; j < kBlock; ++j)
    if (std::fabs(x[j]) > std::fabs(best)) best = x[j];
  return best;
}

float inverse(float d) {
  return d == 0 ? 0.0f : 1.0f / d;
}

// Half the block in the low nibbles, the other half in the high ones.
void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | codes[j + 16] << 4);
}

void pack_fifth_bits(const uint8_t* codes, uint8_t* qh) {
  std::memset(qh, 0, 4);
  for (int j = 0; j < kBlock; ++j) qh[j / 8] = static_cast<uint8_t>(qh[j / 8] | (codes[j] >> 4) << (j % 8));
}

// Codes 0 .. 2 * zero - 1 with `zero` for 0; the largest element lies on code 0.
float symmetric_codes(const float* x, int zero, uint8_t* codes) {
  const float d = largest(x) / static_cast<float>(-zero), id = inverse(d);
  for (int j = 0; j < kBlock; ++j)
    codes[j] =
        static_cast<uint8_t>(std::min(2 * zero - 1, static_cast<int>(x[j] * id + (static_cast<float>(zero) + 0.5f))));
  return d;
}

void quantize(const float* x, BlockQ4_0& b) {
  uint8_t codes[kBlock];
  b.d = float_to_half(symmetric_codes(x, 8, codes));
  pack_nibbles(codes, b.qs);
}

void quantize(const float* x, BlockQ5_0& b) {
  uint8_t codes[kBlock];
  b.d = float_to_half(symmetric_codes(x, 16, codes));
  pack_nibbles(codes, b.qs);
  pack_fifth_bits(codes, b.qh);
}

void quantize(const float* x, BlockQ5_1& b) {
  const auto [low, high] = std::minmax_element(x, x + kBlock);
  const float d = (*high - *low) / 31, id = inverse(d);
  uint8_t codes[kBlock];
  for (int j = 0; j < kBlock; ++j)
    codes[j] = static_cast<uint8_t>(std::min(31, static_cast<int>((x[j] - *low) * id + 0.5f)));
  b.d = float_to_half(d);
  b.m = float_to_half(*low);
  pack_nibbles(codes, b.qs);
  pack_fifth_bits(codes, b.qh);
}

void quantize(const float* x, BlockQ8_0& b) {
  const float d = std::fabs(largest(x)) / 127, id = inverse(d);
  b.d = float_to_half(d);
  for (int j = 0; j < kBlock; ++j) b.qs[j] = static_cast<int8_t>(std::round(x[j] * id));
}

template <class Block>
void quantize_blocks(const float* src, void* dst, int64_t n) {
  auto* blocks = static_cast<Block*>(dst);
  for (int64_t i = 0; i < n / kBlock; ++i) quantize(src + i * kBlock, blocks[i]);
}

}  // namespace

bool can_quantize(TensorType type) {
  switch (type) {
    case TensorType::F32:
    case TensorType::F16:
    case TensorType::Q4_0:
    case TensorType::Q5_0:
    case TensorType::Q5_1:
    case TensorType::Q8_0:
    case TensorType::Q4_K:
    case TensorType::Q5_K:
    case TensorType::Q6_K:
      return true;
    default:
      return false;
  }
}

void quantize_row(TensorType type, const float* src, void* dst, int64_t n) {
  switch (type) {
    case TensorType::F32:
      std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      break;
    case TensorType::F16:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(dst)[i] = float_to_half(src[i]);
      break;
    case TensorType::Q4_0:
      quantize_blocks<BlockQ4_0>(src, dst, n);
      break;
    case TensorType::Q5_0:
      quantize_blocks<BlockQ5_0>(src, dst, n);
      break;
    case TensorType::Q5_1:
      quantize_blocks<BlockQ5_1>(src, dst, n);
      break;
    case TensorType::Q8_0:
      quantize_blocks<BlockQ8_0>(src, dst, n);
      break;
    default:
      quantize_k_row(type, src, dst, n);
  }
}

}  // namespace foveal
