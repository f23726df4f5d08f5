// Attention as the formula reads: scores, softmax, weighted sum, one query at a time.
#include <cmath>

#include "kernels/cpu/scalar/ops.h"

namespace foveal::scalar {

namespace {

constexpr int64_t block_tokens = 16;

float dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return static_cast<float>(sum);
}

float capped(float s, float scale, float softcap) {
  s *= scale;
  return softcap > 0 ? softcap * std::tanh(s / softcap) : s;
}

// Running softmax of one query over one tile of keys: max m, sum l of exp(s - m), out = sum of exp(s - m) v.
struct Running {
  float m = -1e30f;
  float l = 0;
};

void attend_tile(Running& state, float* out, const float* scores, const float* v, int64_t v_stride, int64_t n,
                 int64_t head_dim) {
  float m = state.m;
  for (int64_t r = 0; r < n; ++r) m = std::fmax(m, scores[r]);
  const float correction = std::exp(state.m - m);
  state.m = m;
  state.l *= correction;
  for (int64_t d = 0; d < head_dim; ++d) out[d] *= correction;
  for (int64_t r = 0; r < n; ++r) {
    const float p = std::exp(scores[r] - m);
    state.l += p;
    for (int64_t d = 0; d < head_dim; ++d) out[d] += p * v[r * v_stride + d];
  }
}

}  // namespace

int64_t attend_tokens(int64_t) {
  return block_tokens;
}
int64_t attend_scratch(int64_t, int64_t) {
  return key_tile;
}

// Flash attention's recurrence (arXiv 2205.14135) over tiles of key_tile rows counted from row 0, so that a token's
// result doesn't depend on which other tokens came with it.
void attend_block(const AttendBlock& a) {
  float* scores = a.scratch;
  for (int64_t t = 0; t < a.n_tokens; ++t) {
    const int64_t lo = a.lo ? a.lo[t] : 0, hi = a.hi ? a.past + a.hi[t] : a.n_keys;
    for (int64_t j = 0; j < a.group; ++j) {
      const float* q = a.q + t * a.q_stride + j * a.head_dim;
      float* out = a.out + t * a.out_stride + j * a.head_dim;
      for (int64_t d = 0; d < a.head_dim; ++d) out[d] = 0;
      Running state;
      for (int64_t tile = lo / key_tile * key_tile; tile < hi; tile += key_tile) {
        const int64_t first = tile > lo ? tile : lo, end = tile + key_tile < hi ? tile + key_tile : hi;
        for (int64_t r = first; r < end; ++r) {
          scores[r - first] = capped(dot(q, a.k + r * a.k_stride, a.head_dim), a.scale, a.softcap);
        }
        attend_tile(state, out, scores, a.v + first * a.v_stride, a.v_stride, end - first, a.head_dim);
      }
      for (int64_t d = 0; d < a.head_dim; ++d) out[d] = state.l > 0 ? out[d] / state.l : 0.0f;
    }
  }
}

int64_t decode_scratch(int64_t group, int64_t head_dim) {
  return decode_rows * (group + head_dim);
}

void decode_chunk(const DecodeChunk& c) {
  float* scores = c.scratch;                     // [group][n_rows]
  float* rows = c.scratch + c.group * c.n_rows;  // [n_rows][head_dim]: K, then V
  const int64_t stride = part_stride(c.head_dim);
  load_rows(rows, c.k, c.type, c.n_rows * c.head_dim);
  for (int64_t j = 0; j < c.group; ++j) {
    for (int64_t r = 0; r < c.n_rows; ++r) {
      const float s = dot(c.q + j * c.head_dim, rows + r * c.head_dim, c.head_dim);
      scores[j * c.n_rows + r] = capped(s, c.scale, c.softcap);
    }
  }
  load_rows(rows, c.v, c.type, c.n_rows * c.head_dim);
  for (int64_t j = 0; j < c.group; ++j) {
    float* part = c.part + j * stride;
    for (int64_t d = 0; d < c.head_dim; ++d) part[2 + d] = 0;
    Running state;
    attend_tile(state, part + 2, scores + j * c.n_rows, rows, c.head_dim, c.n_rows, c.head_dim);
    part[0] = state.m;
    part[1] = state.l;
  }
}

void decode_merge(float* out, const float* parts, int64_t n_parts, int64_t group, int64_t head_dim) {
  const int64_t stride = part_stride(head_dim);
  for (int64_t j = 0; j < group; ++j) {
    float m = -1e30f, l = 0;
    for (int64_t i = 0; i < n_parts; ++i) m = std::fmax(m, parts[(i * group + j) * stride]);
    for (int64_t d = 0; d < head_dim; ++d) out[j * head_dim + d] = 0;
    for (int64_t i = 0; i < n_parts; ++i) {
      const float* part = parts + (i * group + j) * stride;
      const float weight = std::exp(part[0] - m);
      l += weight * part[1];
      for (int64_t d = 0; d < head_dim; ++d) out[j * head_dim + d] += weight * part[2 + d];
    }
    for (int64_t d = 0; d < head_dim; ++d) out[j * head_dim + d] = l > 0 ? out[j * head_dim + d] / l : 0.0f;
  }
}

void score_rows(float* scores, int64_t score_stride, const float* q, int64_t q_stride, int64_t n_q, const float* rows,
                int64_t n, int64_t head_dim) {
  for (int64_t i = 0; i < n_q; ++i) {
    for (int64_t r = 0; r < n; ++r) {
      scores[i * score_stride + r] = dot(q + i * q_stride, rows + r * head_dim, head_dim);
    }
  }
}

void softmax(float* x, int64_t n, float scale, float softcap) {
  float m = -1e30f;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = capped(x[i], scale, softcap);
    m = std::fmax(m, x[i]);
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - m);
    sum += x[i];
  }
  const float inverse = static_cast<float>(1.0 / sum);
  for (int64_t i = 0; i < n; ++i) x[i] *= inverse;
}

void row_norm(float* norms, const float* rows, int64_t n, int64_t head_dim) {
  for (int64_t r = 0; r < n; ++r) {
    const float* row = rows + r * head_dim;
    double sum = 0;
    for (int64_t d = 0; d < head_dim; ++d) sum += static_cast<double>(row[d]) * row[d];
    norms[r] = static_cast<float>(std::sqrt(sum));
  }
}

namespace {

double inverse_norm(const float* row, int64_t head_dim) {
  double sum = 0;
  for (int64_t d = 0; d < head_dim; ++d) sum += static_cast<double>(row[d]) * row[d];
  return 1.0 / std::fmax(std::sqrt(sum), 1e-12);
}

}  // namespace

void unit_sum(double* sum, const float* rows, int64_t n, int64_t head_dim) {
  for (int64_t r = 0; r < n; ++r) {
    const float* row = rows + r * head_dim;
    const double inverse = inverse_norm(row, head_dim);
    for (int64_t d = 0; d < head_dim; ++d) sum[d] += row[d] * inverse;
  }
}

void cosine(float* cosine, const double* m, const float* rows, int64_t n, int64_t head_dim) {
  for (int64_t r = 0; r < n; ++r) {
    const float* row = rows + r * head_dim;
    double sum = 0;
    for (int64_t d = 0; d < head_dim; ++d) sum += row[d] * m[d];
    cosine[r] = static_cast<float>(sum * inverse_norm(row, head_dim));
  }
}

}  // namespace foveal::scalar
