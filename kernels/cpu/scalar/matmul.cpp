// The specification of the matrix products: what every fast twin computes, bit for bit.
#include "kernels/cpu/matmul.h"

#include <cmath>

#include "kernels/cpu/scalar/half.h"

namespace foveal::scalar {

static void quantize(const float* x, int64_t x_stride, int count, int64_t cols, int8_t* quads, float* scales,
                     int32_t* sums) {
  for (int t = 0; t < count; ++t) {
    const float* row = x + t * x_stride;
    for (int64_t b = 0; b < cols / 32; ++b) {
      float amax = 0;
      for (int i = 0; i < 32; ++i) amax = std::fmax(amax, std::fabs(row[b * 32 + i]));
      const float d = amax / 127.0f, inverse = amax > 0 ? 127.0f / amax : 0.0f;
      scales[b * count + t] = d;
      for (int half = 0; half < 2; ++half) {
        int32_t sum = 0;
        for (int i = half * 16; i < half * 16 + 16; ++i) {
          const auto q = static_cast<int32_t>(std::nearbyint(row[b * 32 + i] * inverse));
          quads[((b * 8 + i / 4) * count + t) * 4 + i % 4] = static_cast<int8_t>(q);
          sum += q;
        }
        sums[(b * 2 + half) * count + t] = sum;
      }
    }
  }
}

template <int Bits>
static int32_t code_at(const uint8_t* group, int row, int k) {
  if (Bits == 8) return group[(k / 4) * 64 + row * 4 + k % 4];
  const int low = k % 16;
  const uint8_t byte = group[(low / 4) * 64 + row * 4 + low % 4];
  return k < 16 ? byte & 15 : byte >> 4;
}

template <int Bits, int Sub>
static void quant(const QuantPanel& w, const QuantTokens& x, const MatmulOut& o) {
  constexpr int kGroup = Bits == 4 ? 256 : 512;
  for (int t = 0; t < x.count; ++t)
    for (int row = 0; row < o.n_rows; ++row) {
      float acc = 0;
      for (int64_t g = 0; g < w.cols / 32; ++g) {
        const uint8_t* codes = w.codes + g * kGroup;
        const float scale = x.scales[g * x.count + t];
        for (int s = 0; s < 32 / Sub; ++s) {
          const int64_t sub = g * (32 / Sub) + s;
          const int32_t sum = x.sums[Sub == 16][sub * x.count + t];
          int32_t dot = 0;
          for (int k = s * Sub; k < s * Sub + Sub; ++k)
            dot += code_at<Bits>(codes, row, k) * x.quads[((g * 8 + k / 4) * x.count + t) * 4 + k % 4];
          dot -= w.offset * sum;
          const float d = half_to_float(w.d[sub * kPanelRows + row]) * scale;
          acc = std::fma(static_cast<float>(dot), d, acc);
          if (w.m) {
            const float m = half_to_float(w.m[sub * kPanelRows + row]);
            acc = std::fma(-m, x.scaled[Sub == 16][sub * x.count + t], acc);
          }
        }
      }
      o.out[t * o.stride + row] = o.bias ? acc + o.bias[row] : acc;
    }
}

template <bool Half>
static void floats(const FloatPanel& w, const float* x, int count, const MatmulOut& o) {
  for (int t = 0; t < count; ++t)
    for (int row = 0; row < o.n_rows; ++row) {
      float acc = 0;
      for (int64_t k = 0; k < w.cols; ++k) {
        const float value = Half ? half_to_float(static_cast<const uint16_t*>(w.values)[k * kPanelRows + row])
                                 : static_cast<const float*>(w.values)[k * kPanelRows + row];
        acc = std::fma(value, x[k * count + t], acc);
      }
      o.out[t * o.stride + row] = o.bias ? acc + o.bias[row] : acc;
    }
}

const MatmulKernels matmul = {
    quantize, {{quant<4, 32>, quant<4, 16>}, {quant<8, 32>, quant<8, 16>}}, {floats<false>, floats<true>}};

}  // namespace foveal::scalar
