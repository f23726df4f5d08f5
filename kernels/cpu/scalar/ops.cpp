// Norms, sums, activations and rotary embedding of one row, as the formulas read; and the scalar table.
#include "kernels/cpu/scalar/ops.h"

#include <cmath>

namespace foveal::scalar {

// out = x / sqrt(mean(x^2) + eps) * w (RMSNorm, arXiv 1910.07467)
void rms_norm(float* out, const float* x, const float* w, int64_t n, float eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const float inverse = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(n) + eps));
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * inverse * w[i];
}

// out = (x - mean) / sqrt(variance + eps) * w + b
void layer_norm(float* out, const float* x, const float* w, const float* b, int64_t n, float eps) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    const float y = static_cast<float>((x[i] - mean) * inverse) * w[i];
    out[i] = b ? y + b[i] : y;
  }
}

void add(float* x, const float* y, const float* scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += scale ? y[i] * scale[i] : y[i];
}

void scale(float* x, float s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= s;
}

namespace {

float activate(float value, CpuAct kind) {
  const double x = value;
  switch (kind) {
    case CpuAct::silu:
      return static_cast<float>(x / (1.0 + std::exp(-x)));
    case CpuAct::gelu_tanh:  // 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
      return static_cast<float>(x / (1.0 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))));
    case CpuAct::gelu_erf:
      return static_cast<float>(0.5 * x * std::erfc(-x * 0.70710678118654752));
    case CpuAct::gelu_quick:
      return static_cast<float>(x / (1.0 + std::exp(-1.702 * x)));
  }
  return value;
}

}  // namespace

void act(float* x, int64_t n, CpuAct kind) {
  for (int64_t i = 0; i < n; ++i) x[i] = activate(x[i], kind);
}

void gated_act(float* out, const float* gate, const float* up, int64_t n, CpuAct kind) {
  for (int64_t i = 0; i < n; ++i) out[i] = activate(gate[i], kind) * up[i];
}

// Pair (a, b) -> (a cos - b sin, a sin + b cos) (RoFormer, arXiv 2104.09864)
void rope(float* x, int64_t n_head, int64_t head_dim, const float* cs, int64_t n_rot, bool half_split) {
  const int64_t half = n_rot / 2;
  for (int64_t h = 0; h < n_head; ++h, x += head_dim) {
    for (int64_t i = 0; i < half; ++i) {
      float& a = half_split ? x[i] : x[2 * i];
      float& b = half_split ? x[i + half] : x[2 * i + 1];
      const float c = cs[i], s = cs[half + i], a0 = a, b0 = b;
      a = a0 * c - b0 * s;
      b = a0 * s + b0 * c;
    }
  }
}

const CpuOps ops = {rms_norm,     layer_norm, add,           scale,          act,          gated_act,      rope,
                    store_rows,   load_rows,  attend_tokens, attend_scratch, attend_block, decode_scratch, decode_chunk,
                    decode_merge, score_rows, softmax,       row_norm,       unit_sum,     cosine};

}  // namespace foveal::scalar
