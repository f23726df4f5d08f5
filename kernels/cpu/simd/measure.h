// Dot products over stored rows, softmax, norms and cosines. Scalar twin: kernels/cpu/scalar/attention.cpp.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

// Lane r of the result = q . row r for `lanes` rows; when fewer are there (n), the last stands in for the missing.
template <bool all>
inline vf dots(const float* q, const float* rows, int64_t n, int64_t head_dim) {
  vf acc[lanes];
  int64_t offset[lanes];
  for (int r = 0; r < lanes; ++r) {
    acc[r] = zero();
    offset[r] = (all || r < n ? r : n - 1) * head_dim;
  }
  int64_t d = 0;
  for (; d + lanes <= head_dim; d += lanes) {
    const vf x = load(q + d);
    const float* column = rows + d;
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) acc[r] = fma(x, load(column + (all ? r * head_dim : offset[r])), acc[r]);
  }
  if (d < head_dim) {
    const vf x = load_n(q + d, head_dim - d);
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) acc[r] = fma(x, load_n(rows + d + offset[r], head_dim - d), acc[r]);
  }
  return sums(acc);
}

void score_rows(float* scores, int64_t score_stride, const float* q, int64_t q_stride, int64_t n_q, const float* rows,
                int64_t n, int64_t head_dim) {
  over(
      n,
      [&](int64_t r) {
        for (int64_t i = 0; i < n_q; ++i) {
          store(scores + i * score_stride + r, dots<true>(q + i * q_stride, rows + r * head_dim, lanes, head_dim));
        }
      },
      [&](int64_t r, int64_t left) {
        for (int64_t i = 0; i < n_q; ++i) {
          const vf s = dots<false>(q + i * q_stride, rows + r * head_dim, left, head_dim);
          store_n(scores + i * score_stride + r, s, left);
        }
      });
}

// Vector i of a row whose lanes past the end hold `fill`.
inline vf load_filled(const float* x, int64_t n, float fill) {
  return select(less_int(count(), set_int(static_cast<int32_t>(n))), load_n(x, n), set(fill));
}

constexpr float lowest = -1e30f;  // below every score, and yet x - lowest is finite

void softmax(float* x, int64_t n, float scale, float softcap) {
  vf top = set(lowest);
  over(
      n,
      [&](int64_t i) {
        const vf s = cap(load(x + i), scale, softcap);
        top = max(top, s);
        store(x + i, s);
      },
      [&](int64_t i, int64_t left) {
        const vf s = cap(load_n(x + i, left), scale, softcap);
        store_n(x + i, s, left);
        top = max(top, load_filled(x + i, left, lowest));
      });
  const vf m = set(largest(top));
  vd low = zero_double(), high = zero_double();
  const auto weigh = [&](vf s) {
    const vf p = exp_down(sub(s, m));
    low = add_double(low, low_double(p));
    high = add_double(high, high_double(p));
    return p;
  };
  over(
      n, [&](int64_t i) { store(x + i, weigh(load(x + i))); },
      [&](int64_t i, int64_t left) { store_n(x + i, weigh(load_filled(x + i, left, -__builtin_inff())), left); });
  foveal::FOVEAL_SIMD::scale(x, static_cast<float>(1.0 / sum_double(add_double(low, high))), n);
}

// |row|^2 in double.
inline double squares(const float* row, int64_t head_dim) {
  vd low = zero_double(), high = zero_double();
  const auto count_in = [&](vf x) {
    low = fma_double(low_double(x), low_double(x), low);
    high = fma_double(high_double(x), high_double(x), high);
  };
  over(
      head_dim, [&](int64_t d) { count_in(load(row + d)); },
      [&](int64_t d, int64_t left) { count_in(load_n(row + d, left)); });
  return sum_double(add_double(low, high));
}

inline double inverse_norm(const float* row, int64_t head_dim) {
  const double norm = square_root(squares(row, head_dim));
  return 1.0 / (norm > 1e-12 ? norm : 1e-12);
}

void row_norm(float* norms, const float* rows, int64_t n, int64_t head_dim) {
  for (int64_t r = 0; r < n; ++r) norms[r] = static_cast<float>(square_root(squares(rows + r * head_dim, head_dim)));
}

void unit_sum(double* sum, const float* rows, int64_t n, int64_t head_dim) {
  const int64_t whole = head_dim / lanes * lanes;
  for (int64_t r = 0; r < n; ++r) {
    const float* row = rows + r * head_dim;
    const double inverse = inverse_norm(row, head_dim);
    const vd factor = set_double(inverse);
    for (int64_t d = 0; d < whole; d += lanes) {
      const vf x = load(row + d);
      store_double(sum + d, fma_double(low_double(x), factor, load_double(sum + d)));
      store_double(sum + d + lanes / 2, fma_double(high_double(x), factor, load_double(sum + d + lanes / 2)));
    }
    for (int64_t d = whole; d < head_dim; ++d) sum[d] += row[d] * inverse;
  }
}

void cosine(float* cosine, const double* m, const float* rows, int64_t n, int64_t head_dim) {
  const int64_t whole = head_dim / lanes * lanes;
  for (int64_t r = 0; r < n; ++r) {
    const float* row = rows + r * head_dim;
    vd low = zero_double(), high = zero_double();
    for (int64_t d = 0; d < whole; d += lanes) {
      const vf x = load(row + d);
      low = fma_double(low_double(x), load_double(m + d), low);
      high = fma_double(high_double(x), load_double(m + d + lanes / 2), high);
    }
    double dot = sum_double(add_double(low, high));
    for (int64_t d = whole; d < head_dim; ++d) dot += row[d] * m[d];
    cosine[r] = static_cast<float>(dot * inverse_norm(row, head_dim));
  }
}

}  // namespace
}  // namespace foveal::FOVEAL_SIMD
