// KV rows as they are stored: F32, F16, and ggml's block types Q8_0 and Q4_0.
#include <cmath>
#include <cstring>

#include "kernels/cpu/scalar/half.h"
#include "kernels/cpu/scalar/ops.h"

namespace foveal::scalar {

namespace {

// A block of 32 numbers in the cache. q8: x = d * q. q4: x = d * (q - 8), numbers 0..15 in the low nibbles.
struct Q8Block {
  uint16_t d;
  int8_t q[32];
};
struct Q4Block {
  uint16_t d;
  uint8_t q[16];
};
static_assert(sizeof(Q8Block) == 34 && sizeof(Q4Block) == 18);

void store_q8(Q8Block& block, const float* x) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::fmax(largest, std::fabs(x[i]));
  const float d = largest / 127.0f, inverse = d > 0 ? 1.0f / d : 0.0f;
  block.d = float_to_half(d);
  for (int i = 0; i < 32; ++i) block.q[i] = static_cast<int8_t>(std::nearbyintf(x[i] * inverse));
}

// The number of largest magnitude (the first of them) maps to -8 exactly.
void store_q4(Q4Block& block, const float* x) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  const float d = largest / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  block.d = float_to_half(d);
  const auto level = [&](float value) {
    return static_cast<uint8_t>(std::fmin(15.0f, std::fmax(0.0f, std::nearbyintf(value * inverse) + 8.0f)));
  };
  for (int i = 0; i < 16; ++i) block.q[i] = static_cast<uint8_t>(level(x[i]) | (level(x[i + 16]) << 4));
}

}  // namespace

void store_rows(void* dst, RowType type, const float* src, int64_t n) {
  if (n == 0) return;  // the pointers may be null then
  switch (type) {
    case RowType::F32:
      std::memcpy(dst, src, static_cast<size_t>(n) * 4);
      return;
    case RowType::F16:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(dst)[i] = float_to_half(src[i]);
      return;
    case RowType::Q8_0:
      for (int64_t b = 0; b < n / 32; ++b) store_q8(static_cast<Q8Block*>(dst)[b], src + b * 32);
      return;
    case RowType::Q4_0:
      for (int64_t b = 0; b < n / 32; ++b) store_q4(static_cast<Q4Block*>(dst)[b], src + b * 32);
      return;
  }
}

void load_rows(float* dst, const void* src, RowType type, int64_t n) {
  if (n == 0) return;
  switch (type) {
    case RowType::F32:
      std::memcpy(dst, src, static_cast<size_t>(n) * 4);
      return;
    case RowType::F16:
      for (int64_t i = 0; i < n; ++i) dst[i] = half_to_float(static_cast<const uint16_t*>(src)[i]);
      return;
    case RowType::Q8_0:
      for (int64_t b = 0; b < n / 32; ++b) {
        const Q8Block& block = static_cast<const Q8Block*>(src)[b];
        const float d = half_to_float(block.d);
        for (int i = 0; i < 32; ++i) dst[b * 32 + i] = d * static_cast<float>(block.q[i]);
      }
      return;
    case RowType::Q4_0:
      for (int64_t b = 0; b < n / 32; ++b) {
        const Q4Block& block = static_cast<const Q4Block*>(src)[b];
        const float d = half_to_float(block.d);
        for (int i = 0; i < 16; ++i) {
          dst[b * 32 + i] = d * static_cast<float>((block.q[i] & 15) - 8);
          dst[b * 32 + 16 + i] = d * static_cast<float>((block.q[i] >> 4) - 8);
        }
      }
      return;
  }
}

}  // namespace foveal::scalar
