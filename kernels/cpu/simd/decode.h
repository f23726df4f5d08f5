// One token's attention over a piece of a KV head: stored rows are read once for all query heads of the group, half
// precision in registers, the other types widened in blocks that stay in the first-level cache. Scalar twin:
// kernels/cpu/scalar/attention.cpp.
#pragma once

namespace foveal::FOVEAL_SIMD {
namespace {

constexpr int64_t row_block = 16;  // rows at a time
constexpr int64_t value_vectors = 4;

inline int64_t padded(int64_t head_dim) {
  return (head_dim + lanes - 1) / lanes * lanes;
}

// scores [group][decode_rows], rows [row_block][head_dim], sums [group][padded head_dim]
int64_t decode_scratch(int64_t group, int64_t head_dim) {
  return group * decode_rows + row_block * head_dim + lanes + group * padded(head_dim);
}

// K or V of a piece, and which of its rows to call for while others are worked on: memory's latency is longer than the
// work on one block, and the CPU keeps only few requests open at a time. After the own rows come the next piece's.
struct Stored {
  const char* own;
  const char* next;
  int64_t rows, next_rows, row_bytes;
  int64_t ahead() const { return (4096 / row_bytes + row_block) / row_block * row_block; }  // rows
  // `row` counts from the own first one. Past all that is known: rows that are here already.
  const char* coming(int64_t row) const {
    if (row < rows) return own + row * row_bytes;
    return row - rows < next_rows ? next + (row - rows) * row_bytes : own;
  }
};

inline void ask(const char* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 3);
}

struct Halves {
  static vf read(const char* row, int64_t d) { return load_half(reinterpret_cast<const uint16_t*>(row) + d); }
  static vf read_n(const char* row, int64_t d, int64_t n) {
    return load_half_n(reinterpret_cast<const uint16_t*>(row) + d, n);
  }
};

struct Singles {
  static vf read(const char* row, int64_t d) { return load(reinterpret_cast<const float*>(row) + d); }
  static vf read_n(const char* row, int64_t d, int64_t n) { return load_n(reinterpret_cast<const float*>(row) + d, n); }
};

// A block of n <= row_block rows.
struct Block {
  const char* rows;
  int64_t row_bytes, n;
  const char* coming;   // what to ask for meanwhile,
  int64_t coming_step;  // bytes a row
};

// scores[h][r] = q[h] . row r for `heads` heads.
template <class Rows, int heads>
inline void score_block(float* scores, const float* q, const Block& b, int64_t head_dim) {
  for (int64_t first = 0; first < b.n; first += lanes) {
    const int64_t n = b.n - first < lanes ? b.n - first : lanes;
    vf part[heads][lanes];
    for (int64_t r = 0; r < n; ++r) {
      const char* row = b.rows + (first + r) * b.row_bytes;
      ask(b.coming + (first + r) * b.coming_step, b.coming_step);
      vf acc[heads];
#pragma GCC unroll 6
      for (int h = 0; h < heads; ++h) acc[h] = zero();
      int64_t d = 0;
      for (; d + lanes <= head_dim; d += lanes) {
        const vf x = Rows::read(row, d);
#pragma GCC unroll 6
        for (int h = 0; h < heads; ++h) acc[h] = fma(x, load(q + h * head_dim + d), acc[h]);
      }
      if (d < head_dim) {
        const vf x = Rows::read_n(row, d, head_dim - d);
#pragma GCC unroll 6
        for (int h = 0; h < heads; ++h) acc[h] = fma(x, load_n(q + h * head_dim + d, head_dim - d), acc[h]);
      }
#pragma GCC unroll 6
      for (int h = 0; h < heads; ++h) part[h][r] = acc[h];
    }
    for (int h = 0; h < heads; ++h) {
      for (int64_t r = n; r < lanes; ++r) part[h][r] = zero();
      store(scores + h * decode_rows + first, sums(part[h]));
    }
  }
}

// Rows [first, ...) of a piece as a block; `room` takes the widened rows of the other types.
template <class Rows>
inline Block block_of(const Stored& s, RowType type, int64_t first, int64_t head_dim, float* room) {
  const int64_t n = s.rows - first < row_block ? s.rows - first : row_block;
  const char* from = s.own + first * s.row_bytes;
  Block b{from, s.row_bytes, n, s.coming(first + s.ahead()), s.row_bytes};
  if (type != RowType::F16 && type != RowType::F32) {
    load_rows(room, from, type, n * head_dim);
    b.rows = reinterpret_cast<const char*>(room);
    b.row_bytes = head_dim * static_cast<int64_t>(sizeof(float));
  }
  return b;
}

// The next piece's rows that a short piece has had no time to ask for.
inline void ask_the_rest(const Stored& s) {
  const int64_t rows = s.ahead() - (s.rows + row_block - 1) / row_block * row_block;
  if (rows > 0 && s.next_rows > 0) ask(s.next, (rows < s.next_rows ? rows : s.next_rows) * s.row_bytes);
}

// Calls part<heads>(h) for all heads of a group, as many at a time as the registers take with value_vectors each.
template <class Part>
inline void over_heads(int64_t group, Part part) {
  int64_t h = 0;
  if constexpr (decode_heads == 4) {
    for (; group - h > 6; h += 4) part.template operator()<4>(h);
    if (group - h == 6) return part.template operator()<6>(h);
    if (group - h == 5) return part.template operator()<5>(h);
    if (group - h == 4) return part.template operator()<4>(h);
    if (group - h == 3) return part.template operator()<3>(h);
    if (group - h == 2) return part.template operator()<2>(h);
  } else {
    for (; h + decode_heads <= group; h += decode_heads) part.template operator()<decode_heads>(h);
  }
  for (; h < group; ++h) part.template operator()<1>(h);
}

template <class Rows>
inline void decode_scores(const DecodeChunk& c, const Stored& keys, const Stored& values, float* scores, float* room) {
  for (int64_t first = 0; first < c.n_rows; first += row_block) {
    Block b = block_of<Rows>(keys, c.type, first, c.head_dim, room);
    if (!c.asked && first < values.ahead()) ask(values.coming(first), b.n * values.row_bytes);
    over_heads(c.group, [&]<int heads>(int64_t h) {
      score_block<Rows, heads>(scores + h * decode_rows + first, c.q + h * c.head_dim, b, c.head_dim);
      b.coming_step = 0;
    });
  }
  ask_the_rest(keys);
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

// sums[h][d .. d + vectors*lanes) += weights[h][r] * row r [d ..]; `last` < lanes: columns of a lone short vector.
template <class Rows, int heads, int vectors>
inline void weigh_block(float* sums, int64_t sums_stride, const float* weights, const Block& b, int64_t d,
                        int64_t last) {
  vf acc[heads][vectors];
#pragma GCC unroll 6
  for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) acc[h][v] = load(sums + h * sums_stride + v * lanes);
  }
  const char* row = b.rows;
  const char* coming = b.coming;
  for (int64_t r = 0; r < b.n; ++r, row += b.row_bytes, coming += b.coming_step) {
    ask(coming, b.coming_step);
    vf x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      x[v] = vectors == 1 && last < lanes ? Rows::read_n(row, d, last) : Rows::read(row, d + v * lanes);
#pragma GCC unroll 6
    for (int h = 0; h < heads; ++h) {
      const vf w = set(weights[h * decode_rows + r]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) acc[h][v] = fma(w, x[v], acc[h][v]);
    }
  }
#pragma GCC unroll 6
  for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(sums + h * sums_stride + v * lanes, acc[h][v]);
  }
}

template <class Rows>
inline void decode_values(const DecodeChunk& c, const Stored& values, const float* weights, float* sums, float* room) {
  const int64_t stride = padded(c.head_dim);
  for (int64_t i = 0; i < c.group * stride; i += lanes) store(sums + i, zero());
  for (int64_t first = 0; first < c.n_rows; first += row_block) {
    Block b = block_of<Rows>(values, c.type, first, c.head_dim, room);
    over_heads(c.group, [&]<int heads>(int64_t h) {
      float* to = sums + h * stride;
      const float* w = weights + h * decode_rows + first;
      int64_t d = 0;
      for (; d + value_vectors * lanes <= c.head_dim; d += value_vectors * lanes) {
        weigh_block<Rows, heads, value_vectors>(to + d, stride, w, b, d, lanes);
        b.coming_step = 0;
      }
      for (; d < c.head_dim; d += lanes)
        weigh_block<Rows, heads, 1>(to + d, stride, w, b, d, c.head_dim - d < lanes ? c.head_dim - d : lanes);
      b.coming_step = 0;
    });
  }
  ask_the_rest(values);
}

template <class Rows>
inline void decode_rows_of(const DecodeChunk& c) {
  float* scores = c.scratch;
  float* sums = scores + c.group * decode_rows;
  float* room = sums + c.group * padded(c.head_dim);
  const int64_t stride = part_stride(c.head_dim), bytes = row_type_bytes(c.type, c.head_dim);
  const Stored keys{static_cast<const char*>(c.k), static_cast<const char*>(c.next_k), c.n_rows, c.next_rows, bytes};
  const Stored values{static_cast<const char*>(c.v), static_cast<const char*>(c.next_v), c.n_rows, c.next_rows, bytes};
  decode_scores<Rows>(c, keys, values, scores, room);
  for (int64_t j = 0; j < c.group; ++j) {
    decode_weights(scores + j * decode_rows, c.n_rows, c.scale, c.softcap, c.part + j * stride);
  }
  decode_values<Rows>(c, values, scores, sums, room);
  for (int64_t j = 0; j < c.group; ++j) {
    copy_floats(c.part + j * stride + 2, sums + j * padded(c.head_dim), c.head_dim);
  }
}

void decode_chunk(const DecodeChunk& c) {
  c.type == RowType::F16 ? decode_rows_of<Halves>(c) : decode_rows_of<Singles>(c);
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
