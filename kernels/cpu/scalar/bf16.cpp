// The specification of the products in bfloat16. Layouts and order: kernels/cpu/amx.h.
#include <cmath>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/scalar/half.h"

namespace foveal::scalar {

void pack_bf16(const float* x, int64_t x_stride, int used, int64_t cols, bool rest, uint16_t* to) {
  const int64_t groups = (cols + kTileInputs - 1) / kTileInputs;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t t = 0; t < kTileTokens; ++t)
      for (int64_t i = 0; i < kTileInputs; ++i) {
        const int64_t k = g * kTileInputs + i;
        const float v = t < used && k < cols ? x[t * x_stride + k] : 0.0f;
        const uint16_t high = bf16_of_bits(float_bits(v));
        *to++ = rest ? bf16_of_bits(float_bits(v - bits_float(uint32_t{high} << 16))) : high;
      }
}

static float number(Floats type, const void* values, int64_t i) {
  if (type == kF32) return static_cast<const float*>(values)[i];
  const uint16_t bits = static_cast<const uint16_t*>(values)[i];
  return type == kF16 ? half_to_float(bits) : bits_float(uint32_t{bits} << 16);
}

void pairs(Floats type, const void* values, int64_t n, uint32_t* high, uint32_t* low) {
  const int64_t filled = (n + kTileInputs - 1) / kTileInputs * kTileInputs;
  for (int64_t k = 0; k < filled; ++k)
    for (int64_t row = 0; row < kPanelRows; ++row) {
      const float v = k < n ? number(type, values, k * kPanelRows + row) : 0.0f;
      const uint32_t bits = bf16_of_bits(float_bits(v));
      const uint32_t rest = bf16_of_bits(float_bits(v - bits_float(bits << 16)));
      const int64_t at = k / 2 * kPanelRows + row;
      high[at] = k % 2 == 0 ? bits : high[at] | bits << 16;
      if (low) low[at] = k % 2 == 0 ? rest : low[at] | rest << 16;
    }
}

static float flushed(float v) {
  return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v;
}

static float value(uint32_t bf16) {
  return bits_float(bf16 << 16);
}

// acc + the products of 32 inputs. weights: [pair][row], inputs [32].
static float add_group(const uint32_t* weights, const uint16_t* inputs, float acc) {
  float even = 0, odd = 0;
  for (int i = 0; i < kTileInputs / 2; ++i) {
    const uint32_t w = weights[i * kPanelRows];
    even = flushed(std::fma(value(inputs[2 * i]), value(w & 0xffff), even));
    odd = flushed(std::fma(value(inputs[2 * i + 1]), value(w >> 16), odd));
  }
  return flushed(acc + flushed(even + odd));
}

void product_bf16(const uint32_t* const* panels, int n_panels, const Bf16Tokens& x, const RangeSums& r,
                  const MatmulOut& o) {
  for (int t = 0; t < x.blocks * kTileTokens; ++t) {
    const uint16_t* inputs = x.x + t / kTileTokens * x.block_stride + t % kTileTokens * kTileInputs;
    for (int row = 0; row < n_panels * kPanelRows; ++row) {
      float* sum = r.sums + t * n_panels * kPanelRows + row;
      float acc = r.first ? 0 : *sum;
      for (int64_t g = 0; g < x.n_groups; ++g)
        acc = add_group(panels[row / kPanelRows] + g * 16 * kPanelRows + row % kPanelRows,
                        inputs + g * kTileTokens * kTileInputs, acc);
      *sum = acc;
      if (r.last && t < x.used && row < o.n_rows) o.out[t * o.stride + row] = o.bias ? acc + o.bias[row] : acc;
    }
  }
}

}  // namespace foveal::scalar
