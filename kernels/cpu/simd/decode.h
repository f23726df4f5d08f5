// One token's attention over a piece of a KV head: every stored row is widened to float32 once, in blocks that stay in
// the first-level cache, for all query heads of the group. Scalar twin: kernels/cpu/scalar/attention.cpp.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

constexpr int64_t row_block = 16;  // rows widened at a time
constexpr int64_t value_vectors = 4;

inline int64_t padded(int64_t head_dim) {
  return (head_dim + lanes - 1) / lanes * lanes;
}

// scores [group][decode_rows], rows [row_block][head_dim], sums [group][padded head_dim]
int64_t decode_scratch(int64_t group, int64_t head_dim) {
  return group * decode_rows + row_block * head_dim + lanes + group * padded(head_dim);
}

constexpr int64_t ahead = 4096;  // bytes: memory's latency is longer than the work on one block

// Calls for `bytes` of the rows to come, from + ahead on. Spread over the work on the present rows, since the CPU
// keeps only few requests open at a time.
inline void fetch(const char* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + ahead + i, 0, 3);
}

// Rows [first, first + n) as floats: in place when they are, else widened into `room`.
inline const float* widened(const char* from, RowType type, int64_t n, int64_t head_dim, float* room) {
  if (type == RowType::F32) return reinterpret_cast<const float*>(from);
  load_rows(room, from, type, n * head_dim);
  return room;
}

inline void decode_scores(const DecodeChunk& c, float* scores, float* room) {
  const int64_t row_bytes = row_type_bytes(c.type, c.head_dim), block_bytes = row_block * row_bytes;
  const int64_t steps = c.group * (row_block / lanes);
  const int64_t share = (block_bytes / steps + 63) / 64 * 64;  // bytes to fetch a step
  const char* from = static_cast<const char*>(c.k);
  for (int64_t first = 0; first < c.n_rows; first += row_block, from += block_bytes) {
    const int64_t n = c.n_rows - first < row_block ? c.n_rows - first : row_block;
    const float* rows = widened(from, c.type, n, c.head_dim, room);
    if (n < row_block) {
      score_rows(scores + first, decode_rows, c.q, c.head_dim, c.group, rows, n, c.head_dim);
      continue;
    }
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t r = i / c.group * lanes, j = i % c.group;
      fetch(from + i * share, share);
      store(scores + j * decode_rows + first + r,
            dots<true>(c.q + j * c.head_dim, rows + r * c.head_dim, lanes, c.head_dim));
    }
  }
}

// scores -> weights exp(s - max); the part's max and sum.
inline void decode_weights(float* scores, int64_t n, float scale, float softcap, float* part) {
  vf top = set(lowest), total = zero();
  over(
      n,
      [&](int64_t i) {
        const vf s = cap(load(scores + i), scale, softcap);
        top = max(top, s);
        store(scores + i, s);
      },
      [&](int64_t i, int64_t left) {
        store_n(scores + i, cap(load_n(scores + i, left), scale, softcap), left);
        top = max(top, load_filled(scores + i, left, lowest));
      });
  part[0] = largest(top);
  const vf m = set(part[0]);
  const auto weigh = [&](vf s) {
    const vf p = exp_down(sub(s, m));
    total = add(total, p);
    return p;
  };
  over(
      n, [&](int64_t i) { store(scores + i, weigh(load(scores + i))); },
      [&](int64_t i, int64_t left) {
        store_n(scores + i, weigh(load_filled(scores + i, left, -__builtin_inff())), left);
      });
  part[1] = sum(total);
}

// sums[h][d .. d + vectors*lanes) += weights[h][r] * rows[r][d ..]; `last` < lanes: columns of a lone short vector.
// While at it, fetches `bytes` a row from `next` on.
template <int heads, int vectors>
inline void decode_values_tile(float* sums, int64_t sums_stride, const float* weights, const float* rows, int64_t n,
                               int64_t head_dim, int64_t last, const char* next, int64_t bytes) {
  vf acc[heads][vectors];
#pragma GCC unroll 4
  for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) acc[h][v] = load(sums + h * sums_stride + v * lanes);
  }
  for (int64_t r = 0; r < n; ++r, rows += head_dim, next += bytes) {
    fetch(next, bytes);
    vf x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) x[v] = vectors == 1 && last < lanes ? load_n(rows, last) : load(rows + v * lanes);
#pragma GCC unroll 4
    for (int h = 0; h < heads; ++h) {
      const vf w = set(weights[h * decode_rows + r]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) acc[h][v] = fma(w, x[v], acc[h][v]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(sums + h * sums_stride + v * lanes, acc[h][v]);
  }
}

template <int heads>
inline void decode_values_heads(float* sums, int64_t sums_stride, const float* weights, const float* rows, int64_t n,
                                int64_t head_dim, const char* next, int64_t bytes) {
  int64_t d = 0;
  for (; d + value_vectors * lanes <= head_dim; d += value_vectors * lanes) {
    decode_values_tile<heads, value_vectors>(sums + d, sums_stride, weights, rows + d, n, head_dim, lanes, next,
                                             d == 0 ? bytes : 0);
  }
  for (; d < head_dim; d += lanes) {
    decode_values_tile<heads, 1>(sums + d, sums_stride, weights, rows + d, n, head_dim, head_dim - d, next,
                                 d == 0 ? bytes : 0);
  }
}

inline void decode_values(const DecodeChunk& c, const float* weights, float* sums, float* room) {
  const int64_t stride = padded(c.head_dim);
  for (int64_t i = 0; i < c.group * stride; i += lanes) store(sums + i, zero());
  const int64_t row_bytes = row_type_bytes(c.type, c.head_dim);
  const char* from = static_cast<const char*>(c.v);
  for (int64_t first = 0; first < c.n_rows; first += row_block, from += row_block * row_bytes) {
    const int64_t n = c.n_rows - first < row_block ? c.n_rows - first : row_block;
    const float* rows = widened(from, c.type, n, c.head_dim, room);
    int64_t h = 0;
    for (; h + decode_heads <= c.group; h += decode_heads) {
      decode_values_heads<decode_heads>(sums + h * stride, stride, weights + h * decode_rows + first, rows, n,
                                        c.head_dim, from, h == 0 ? row_bytes : 0);
    }
    if constexpr (decode_heads == 4) {
      for (; h + 3 <= c.group; h += 3) {
        decode_values_heads<3>(sums + h * stride, stride, weights + h * decode_rows + first, rows, n, c.head_dim, from,
                               h == 0 ? row_bytes : 0);
      }
      for (; h + 2 <= c.group; h += 2) {
        decode_values_heads<2>(sums + h * stride, stride, weights + h * decode_rows + first, rows, n, c.head_dim, from,
                               h == 0 ? row_bytes : 0);
      }
    }
    for (; h < c.group; ++h) {
      decode_values_heads<1>(sums + h * stride, stride, weights + h * decode_rows + first, rows, n, c.head_dim, from,
                             h == 0 ? row_bytes : 0);
    }
  }
}

void decode_chunk(const DecodeChunk& c) {
  float* scores = c.scratch;
  float* sums = scores + c.group * decode_rows;
  float* room = sums + c.group * padded(c.head_dim);
  const int64_t stride = part_stride(c.head_dim);
  decode_scores(c, scores, room);
  fetch(static_cast<const char*>(c.v) - ahead, ahead);
  for (int64_t j = 0; j < c.group; ++j) {
    decode_weights(scores + j * decode_rows, c.n_rows, c.scale, c.softcap, c.part + j * stride);
  }
  decode_values(c, scores, sums, room);
  for (int64_t j = 0; j < c.group; ++j) {
    copy_floats(c.part + j * stride + 2, sums + j * padded(c.head_dim), c.head_dim);
  }
}

void decode_merge(float* out, const float* parts, int64_t n_parts, int64_t group, int64_t head_dim) {
  const int64_t stride = part_stride(head_dim);
  for (int64_t j = 0; j < group; ++j, out += head_dim) {
    float top = lowest, total = 0;
    for (int64_t i = 0; i < n_parts; ++i) {
      const float m = parts[(i * group + j) * stride];
      top = m > top ? m : top;
    }
    over(
        head_dim, [&](int64_t d) { store(out + d, zero()); },
        [&](int64_t d, int64_t left) { store_n(out + d, zero(), left); });
    for (int64_t i = 0; i < n_parts; ++i) {
      const float* part = parts + (i * group + j) * stride;
      float weights[lanes];
      store(weights, exp_down(set(part[0] - top)));
      total += weights[0] * part[1];
      const vf w = set(weights[0]);
      over(
          head_dim, [&](int64_t d) { store(out + d, fma(w, load(part + 2 + d), load(out + d))); },
          [&](int64_t d, int64_t left) {
            store_n(out + d, fma(w, load_n(part + 2 + d, left), load_n(out + d, left)), left);
          });
    }
    foveal::FOVEAL_SIMD::scale(out, total > 0 ? 1.0f / total : 0.0f, head_dim);
  }
}

}  // namespace
}  // namespace foveal::FOVEAL_SIMD
