// A block of queries against one KV head: flash attention (arXiv 2205.14135) with the queries on the vector lanes.
// Scalar twin: kernels/cpu/scalar/attention.cpp.
//
//   vector iv = head j * token vectors + b: lane l is token b*lanes + l of query head j; vectors go in groups of <= 3
//   qt [group][d][vectors][lanes]     queries, scaled, transposed once
//   s  [key][vectors][lanes]          scores of one tile of keys, then their weights
//   ot [group][d][vectors][lanes]     sum of weight * v
//
// K and V are read row by row, one number broadcast against a register tile of queries; max, exp and sum run down the
// lanes with no shuffles. A lane sees the same operations whatever its neighbours are: results don't depend on T.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

constexpr int64_t block_lanes = 96;  // queries that a block aims at

inline int64_t token_vectors(int64_t group) {
  return (block_lanes + group * lanes - 1) / (group * lanes);
}

int64_t attend_tokens(int64_t group) {
  return token_vectors(group) * lanes;
}

int64_t attend_scratch(int64_t group, int64_t head_dim) {
  const int64_t vectors = token_vectors(group) * group;
  return vectors * lanes * (2 * head_dim + 2) + token_vectors(group) * lanes * 2 +
         key_tile * (tile_vectors * lanes + 2 * head_dim);
}

struct Scratch {
  float *qt, *ot, *top, *total;  // top, total [vectors][lanes]: running max and sum
  int32_t *lo, *hi;              // [token vectors][lanes]: rows that a token sees
  float *s, *k, *v;              // of one tile
};

inline Scratch lay_out(const AttendBlock& a, int64_t across) {
  const int64_t queries = across * a.group * lanes;
  Scratch m;
  m.qt = a.scratch;
  m.ot = m.qt + queries * a.head_dim;
  m.top = m.ot + queries * a.head_dim;
  m.total = m.top + queries;
  m.s = m.total + queries;
  m.k = m.s + key_tile * tile_vectors * lanes;
  m.v = m.k + key_tile * a.head_dim;
  m.lo = reinterpret_cast<int32_t*>(m.v + key_tile * a.head_dim);
  m.hi = m.lo + across * lanes;
  return m;
}

// How many of the `left` vectors form the next group: threes, but 2 + 2 rather than 3 + 1.
inline int group_size(int64_t left) {
  return left == 4 || left == 2 ? 2 : left >= 3 ? 3 : 1;
}

// One vector's queries [tokens][head_dim] -> qt[d * step] (lanes = tokens), scaled.
inline void pack_queries(float* qt, int64_t step, const float* q, int64_t q_stride, int64_t tokens, int64_t head_dim,
                         float scale) {
  vf r[lanes];
  for (int64_t d = 0; d < head_dim; d += lanes) {
    const int64_t n = head_dim - d < lanes ? head_dim - d : lanes;
    for (int t = 0; t < lanes; ++t) r[t] = t < tokens ? load_n(q + t * q_stride + d, n) : zero();
    transpose(r);
    for (int64_t i = 0; i < n; ++i) store(qt + (d + i) * step, mul(r[i], set(scale)));
  }
}

inline void unpack_result(float* out, int64_t out_stride, int64_t tokens, const float* ot, int64_t step, vf inverse,
                          int64_t head_dim) {
  vf r[lanes];
  for (int64_t d = 0; d < head_dim; d += lanes) {
    const int64_t n = head_dim - d < lanes ? head_dim - d : lanes;
    for (int i = 0; i < lanes; ++i) r[i] = i < n ? mul(load(ot + (d + i) * step), inverse) : zero();
    transpose(r);
    for (int64_t t = 0; t < tokens; ++t) store_n(out + t * out_stride + d, r[t], n);
  }
}

// s[r][v] = sum over d of k[r][d] * qt[d][v] for `rows` keys: rows x vectors accumulators in registers.
template <int vectors, int rows>
inline void score_rows_tile(float* s, const float* qt, const float* k, int64_t k_stride, int64_t head_dim) {
  vf acc[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) acc[r][v] = zero();
  }
  for (int64_t d = 0; d < head_dim; ++d, qt += vectors * lanes) {
    vf q[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) q[v] = load(qt + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const vf x = set(k[r * k_stride + d]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) acc[r][v] = fma(x, q[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) store(s + (r * vectors + v) * lanes, acc[r][v]);
  }
}

// Rows to ask memory for while the present tile keeps the arithmetic busy: `step` at a time, until `end`.
struct Coming {
  const float* row;
  const float* end;
  int64_t stride, step, head_dim;
  void ask() {
    for (int64_t i = 0; i < step && row < end; ++i, row += stride) {
      for (int64_t d = 0; d < head_dim; d += 16) __builtin_prefetch(row + d, 0, 2);
    }
  }
};

template <int vectors>
inline void score_tile(float* s, const float* qt, const float* k, int64_t k_stride, int64_t n, int64_t head_dim,
                       Coming& coming) {
  int64_t r = 0;
  for (; r + tile_rows <= n; r += tile_rows) {
    coming.ask();
    score_rows_tile<vectors, tile_rows>(s + r * vectors * lanes, qt, k + r * k_stride, k_stride, head_dim);
  }
  for (; r < n; ++r) score_rows_tile<vectors, 1>(s + r * vectors * lanes, qt, k + r * k_stride, k_stride, head_dim);
}

// ot[d][v] = ot[d][v] * fade[v] + sum over keys of p[r][v] * v[r][d] for `columns` values of d.
template <int vectors, int columns>
inline void weigh_columns(float* ot, const vf* fade, const float* p, const float* v_rows, int64_t v_stride, int64_t n) {
  vf acc[columns][vectors];
#pragma GCC unroll 8
  for (int c = 0; c < columns; ++c) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) acc[c][v] = mul(load(ot + (c * vectors + v) * lanes), fade[v]);
  }
  for (int64_t r = 0; r < n; ++r, p += vectors * lanes, v_rows += v_stride) {
    vf w[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) w[v] = load(p + v * lanes);
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) {
      const vf x = set(v_rows[c]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) acc[c][v] = fma(x, w[v], acc[c][v]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < columns; ++c) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) store(ot + (c * vectors + v) * lanes, acc[c][v]);
  }
}

template <int vectors>
inline void weigh_tile(float* ot, const vf* fade, const float* p, const float* v_rows, int64_t v_stride, int64_t n,
                       int64_t head_dim, Coming& coming) {
  int64_t d = 0;
  for (; d + tile_rows <= head_dim; d += tile_rows) {
    coming.ask();
    weigh_columns<vectors, tile_rows>(ot + d * vectors * lanes, fade, p, v_rows + d, v_stride, n);
  }
  for (; d < head_dim; ++d) weigh_columns<vectors, 1>(ot + d * vectors * lanes, fade, p, v_rows + d, v_stride, n);
}

struct Tile {
  const float *k, *v;  // rows [first, first + n)
  int64_t k_stride, v_stride, first, n;
  bool masked;  // some token of the block doesn't see all of these rows
  Coming next_k, next_v;
};

// Rows outside a lane's [lo, hi) get minus infinity.
template <int vectors>
inline void mask_scores(float* s, const Tile& tile, const vi* lo, const vi* hi) {
  for (int64_t r = 0; r < tile.n; ++r) {
    const vi row = set_int(static_cast<int32_t>(tile.first + r));
    const vi before = set_int(static_cast<int32_t>(tile.first + r + 1));
    for (int v = 0; v < vectors; ++v) {
      float* at = s + (r * vectors + v) * lanes;
      const vm seen = and_mask(less_int(lo[v], before), less_int(row, hi[v]));
      store(at, select(seen, load(at), set(-__builtin_inff())));
    }
  }
}

// One tile of keys for one group of vectors, the first of which is iv.
template <int vectors>
void attend_tile(const AttendBlock& a, const Scratch& m, Tile& tile, int64_t iv, int64_t across) {
  float* s = m.s;
  const int64_t base = iv * lanes * a.head_dim;
  score_tile<vectors>(s, m.qt + base, tile.k, tile.k_stride, tile.n, a.head_dim, tile.next_k);
  if (a.softcap > 0) {
    for (int64_t i = 0; i < tile.n * vectors; ++i) store(s + i * lanes, cap(load(s + i * lanes), 1.0f, a.softcap));
  }
  if (tile.masked) {
    vi lo[vectors], hi[vectors];
    for (int v = 0; v < vectors; ++v) {
      lo[v] = load_int(m.lo + (iv + v) % across * lanes);
      hi[v] = load_int(m.hi + (iv + v) % across * lanes);
    }
    mask_scores<vectors>(s, tile, lo, hi);
  }
  vf top[vectors], fade[vectors], total[vectors];
#pragma GCC unroll 3
  for (int v = 0; v < vectors; ++v) top[v] = load(m.top + (iv + v) * lanes);
  for (int64_t r = 0; r < tile.n; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) top[v] = max(top[v], load(s + (r * vectors + v) * lanes));
  }
#pragma GCC unroll 3
  for (int v = 0; v < vectors; ++v) {
    fade[v] = exp_down(sub(load(m.top + (iv + v) * lanes), top[v]));
    total[v] = mul(load(m.total + (iv + v) * lanes), fade[v]);
    store(m.top + (iv + v) * lanes, top[v]);
  }
  for (int64_t r = 0; r < tile.n; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) {
      const vf p = exp_down(sub(load(s + (r * vectors + v) * lanes), top[v]));
      total[v] = add(total[v], p);
      store(s + (r * vectors + v) * lanes, p);
    }
  }
#pragma GCC unroll 3
  for (int v = 0; v < vectors; ++v) store(m.total + (iv + v) * lanes, total[v]);
  weigh_tile<vectors>(m.ot + base, fade, s, tile.v, tile.v_stride, tile.n, a.head_dim, tile.next_v);
}

// Rows that lie apart (one head's columns of a wide matrix) are gathered: their addresses would share few cache sets.
inline void gather_tile(Tile& tile, const Scratch& m, int64_t head_dim) {
  if (tile.k_stride != head_dim) {
    for (int64_t r = 0; r < tile.n; ++r) copy_floats(m.k + r * head_dim, tile.k + r * tile.k_stride, head_dim);
    tile.k = m.k;
    tile.k_stride = head_dim;
  }
  if (tile.v_stride != head_dim) {
    for (int64_t r = 0; r < tile.n; ++r) copy_floats(m.v + r * head_dim, tile.v + r * tile.v_stride, head_dim);
    tile.v = m.v;
    tile.v_stride = head_dim;
  }
}

struct Seen {
  int64_t first, end;          // rows that some token sees
  int64_t all_first, all_end;  // rows that every token sees
};

inline Seen note_visible(const AttendBlock& a, const Scratch& m, int64_t across) {
  Seen seen = {a.n_keys, 0, 0, a.n_keys};
  for (int64_t t = 0; t < across * lanes; ++t) {
    const bool real = t < a.n_tokens;
    const int64_t lo = real && a.lo ? a.lo[t] : 0, hi = real && a.hi ? a.past + a.hi[t] : a.n_keys;
    m.lo[t] = static_cast<int32_t>(lo);
    m.hi[t] = static_cast<int32_t>(hi);
    if (!real) continue;
    if (lo < seen.first) seen.first = lo;
    if (hi > seen.end) seen.end = hi;
    if (lo > seen.all_first) seen.all_first = lo;
    if (hi < seen.all_end) seen.all_end = hi;
  }
  return seen;
}

inline void pack_block(const AttendBlock& a, const Scratch& m, int64_t across) {
  const int64_t n = across * a.group;
  for (int64_t iv = 0; iv < n;) {
    const int vectors = group_size(n - iv);
    for (int v = 0; v < vectors; ++v) {
      const int64_t j = (iv + v) / across, t = (iv + v) % across * lanes;
      pack_queries(m.qt + iv * lanes * a.head_dim + v * lanes, vectors * lanes, a.q + t * a.q_stride + j * a.head_dim,
                   a.q_stride, a.n_tokens - t, a.head_dim, a.scale);
    }
    iv += vectors;
  }
  for (int64_t i = 0; i < n * a.head_dim; ++i) store(m.ot + i * lanes, zero());
  for (int64_t i = 0; i < n; ++i) {
    store(m.top + i * lanes, set(lowest));
    store(m.total + i * lanes, zero());
  }
}

inline void unpack_block(const AttendBlock& a, const Scratch& m, int64_t across) {
  const int64_t n = across * a.group;
  for (int64_t iv = 0; iv < n;) {
    const int vectors = group_size(n - iv);
    for (int v = 0; v < vectors; ++v) {
      const int64_t j = (iv + v) / across, t = (iv + v) % across * lanes;
      const vf total = load(m.total + (iv + v) * lanes);
      const vf inverse = select(less(zero(), total), div(set(1.0f), total), zero());
      const int64_t tokens = a.n_tokens - t < lanes ? a.n_tokens - t : lanes;
      unpack_result(a.out + t * a.out_stride + j * a.head_dim, a.out_stride, tokens,
                    m.ot + iv * lanes * a.head_dim + v * lanes, vectors * lanes, inverse, a.head_dim);
    }
    iv += vectors;
  }
}

// The rows of the tile after this one, asked for in even shares by every group of vectors.
inline Coming coming_rows(const float* rows, int64_t stride, int64_t first, int64_t end, int64_t n_vectors,
                          int64_t asks, int64_t head_dim) {
  const int64_t last = first + key_tile < end ? first + key_tile : end;
  const int64_t calls = (n_vectors + 2) / 3 * (asks > 0 ? asks : 1);
  return {rows + first * stride, rows + (last > first ? last : first) * stride, stride, (key_tile + calls - 1) / calls,
          head_dim};
}

void attend_block(const AttendBlock& a) {
  const int64_t across = (a.n_tokens + lanes - 1) / lanes, n = across * a.group;
  const Scratch m = lay_out(a, across);
  const Seen seen = note_visible(a, m, across);
  pack_block(a, m, across);
  for (int64_t first = seen.first / key_tile * key_tile; first < seen.end; first += key_tile) {
    const int64_t end = first + key_tile < seen.end ? first + key_tile : seen.end;
    Tile tile = {a.k + first * a.k_stride,
                 a.v + first * a.v_stride,
                 a.k_stride,
                 a.v_stride,
                 first,
                 end - first,
                 first < seen.all_first || end > seen.all_end,
                 coming_rows(a.k, a.k_stride, end, seen.end, n, key_tile / tile_rows, a.head_dim),
                 coming_rows(a.v, a.v_stride, end, seen.end, n, a.head_dim / tile_rows, a.head_dim)};
    gather_tile(tile, m, a.head_dim);
    for (int64_t iv = 0; iv < n;) {
      const int vectors = group_size(n - iv);
      if (vectors == 3) attend_tile<3>(a, m, tile, iv, across);
      if (vectors == 2) attend_tile<2>(a, m, tile, iv, across);
      if (vectors == 1) attend_tile<1>(a, m, tile, iv, across);
      iv += vectors;
    }
  }
  unpack_block(a, m, across);
}

}  // namespace
}  // namespace foveal::FOVEAL_SIMD
