// Prefill, decode and encoder attention on the host shim, against the scalar kernels.
#include <algorithm>

#include "kernels/cpu/scalar/ops.h"
#include "tests/cuda/shim/help.h"

using namespace foveal;
using shim::both_orders;
using shim::Matrix;
using shim::unit;

namespace {

// One head: rows as float32, and as stored.
struct Head {
  int64_t len;
  std::vector<float> k, v;
  std::vector<uint32_t> stored_k, stored_v;
};

Head make_head(int64_t len, int64_t dim, RowType type, float size = 1.0f) {
  Head h{len, shim::randoms(len * dim, size), shim::randoms(len * dim), {}, {}};
  const auto bytes = static_cast<size_t>(row_type_bytes(type, len * dim));
  h.stored_k.resize((bytes + 3) / 4);
  h.stored_v.resize((bytes + 3) / 4);
  scalar::store_rows(h.stored_k.data(), type, h.k.data(), len * dim);
  scalar::store_rows(h.stored_v.data(), type, h.v.data(), len * dim);
  scalar::load_rows(h.k.data(), h.stored_k.data(), type, len * dim);
  scalar::load_rows(h.v.data(), h.stored_v.data(), type, len * dim);
  return h;
}

struct View {
  float scale = 1, softcap = 0;
  int64_t lo = 0, hi = 0, dim = 0, stride = 0;  // rows seen; elements from row to row of k and v
  bool halves = false;                          // computed with weights and values in fp16, scores of pairs of fp16
};

// Checks one query's result against `want`. A score moves by its roundings, a weight by its score's error, relatively,
// and so does the result by at most the sum of weight * |v|; n + tiles additions on top. Pairs of fp16 keep 2^-22 of a
// number or 2^-25, single ones 2^-11 or 2^-25.
void check_query(const float* got, const float* want, const float* q, const float* k, const float* v, const View& a) {
  std::vector<double> scores, sizes(static_cast<size_t>(a.dim));
  double most = -1e30, moved = 0, sum = 0;
  for (int64_t r = a.lo; r < a.hi; ++r) {
    double s = 0, size = 0, lost = 0;
    for (int64_t d = 0; d < a.dim; ++d) {
      s += static_cast<double>(q[d]) * k[r * a.stride + d];
      size += std::fabs(q[d] * k[r * a.stride + d]);
      if (a.halves) lost += (std::fabs(q[d]) + std::fabs(k[r * a.stride + d])) * 0x1p-25;
    }
    if (a.halves) lost += size * 0x1.8p-21 + static_cast<double>(a.dim) * 3 * unit * size;
    s *= a.scale;
    if (a.softcap > 0) s = a.softcap * std::tanh(s / a.softcap);
    scores.push_back(s);
    most = std::max(most, s);
    moved = std::max(moved, ((static_cast<double>(a.dim) / 4 + 8) * unit * size + lost) * a.scale);
  }
  for (const double s : scores) sum += std::exp(s - most);
  for (size_t r = 0; r < scores.size(); ++r)
    for (int64_t d = 0; d < a.dim; ++d)
      sizes[static_cast<size_t>(d)] +=
          std::exp(scores[r] - most) / sum * std::fabs(v[(a.lo + static_cast<int64_t>(r)) * a.stride + d]);
  const double additions = static_cast<double>(scores.size()) / 2 + 16;
  for (int64_t d = 0; d < a.dim; ++d) {
    double bound = (2 * moved + additions * unit) * sizes[static_cast<size_t>(d)];
    if (a.halves) {
      bound += sizes[static_cast<size_t>(d)] * 0x1.02p-10;
      for (int64_t r = a.lo; r < a.hi; ++r) bound += (std::fabs(v[r * a.stride + d]) / sum + 1) * 0x1p-25;
    }
    CHECK_NEAR(got[d], want[d], bound);
  }
}

std::vector<float> scalar_decode(const float* q, const Head& h, RowType type, int64_t group, int64_t dim,
                                 const View& a) {
  const int64_t bytes = row_type_bytes(type, dim), part = group * part_stride(dim);
  const int64_t n = (h.len + decode_rows - 1) / decode_rows;
  std::vector<float> parts(static_cast<size_t>(n * part)), out(static_cast<size_t>(group * dim));
  std::vector<float> scratch(static_cast<size_t>(scalar::decode_scratch(group, dim)));
  for (int64_t i = 0; i < n; ++i) {
    DecodeChunk c;
    c.q = q;
    c.k = reinterpret_cast<const char*>(h.stored_k.data()) + i * decode_rows * bytes;
    c.v = reinterpret_cast<const char*>(h.stored_v.data()) + i * decode_rows * bytes;
    c.type = type;
    c.group = group;
    c.head_dim = dim;
    c.n_rows = std::min(decode_rows, h.len - i * decode_rows);
    c.scale = a.scale;
    c.softcap = a.softcap;
    c.part = parts.data() + i * part;
    c.scratch = scratch.data();
    scalar::decode_chunk(c);
  }
  scalar::decode_merge(out.data(), parts.data(), n, group, dim);
  return out;
}

void check_decode(RowType type, int64_t group, int64_t dim, const std::vector<int64_t>& lengths, int64_t splits,
                  float softcap) {
  std::vector<Head> heads;
  std::vector<cuda::KvHead> table;
  for (const int64_t len : lengths) heads.push_back(make_head(len, dim, type));
  for (Head& h : heads) table.push_back({h.stored_k.data(), h.stored_v.data(), h.len});
  const auto n_kv = static_cast<int64_t>(heads.size());
  const Matrix q(1, n_kv * group * dim);
  const View base{1 / std::sqrt(static_cast<float>(dim)), softcap, 0, 0, dim, dim};
  const auto got = both_orders([&] {
    Matrix out(1, q.cols);
    std::vector<float> room(cuda::ragged_room(n_kv * group, dim, splits) / 4, NAN);
    cuda::attend_ragged(out.view(), q.view(), table.data(), n_kv, static_cast<cuda::RowType>(type), dim, base.scale,
                        softcap, splits, room.data(), nullptr);
    return out.data;
  });
  for (int64_t h = 0; h < n_kv; ++h) {
    const Head& head = heads[static_cast<size_t>(h)];
    const auto want = scalar_decode(q.row(0) + h * group * dim, head, type, group, dim, base);
    View a = base;
    a.hi = head.len;
    for (int64_t j = 0; j < group; ++j)
      check_query(got.data() + (h * group + j) * dim, want.data() + j * dim, q.row(0) + (h * group + j) * dim,
                  head.k.data(), head.v.data(), a);
  }
}

// Heads with their own pasts and T new rows; every query of the scalar block by itself.
void check_prefill(int64_t dim, int64_t group, int64_t n_new, const std::vector<int64_t>& pasts, bool with_lo,
                   float softcap) {
  std::vector<Head> heads;
  std::vector<cuda::KvHead> table;
  for (const int64_t past : pasts) heads.push_back(make_head(past + n_new, dim, RowType::F32));
  for (Head& h : heads) table.push_back({h.k.data(), h.v.data(), h.len});
  const auto n_kv = static_cast<int64_t>(heads.size());
  const Matrix q(n_new, n_kv * group * dim, 4);
  std::vector<int32_t> lo, hi;
  for (int32_t i = 0; i < n_new; ++i) {
    hi.push_back(i % 4 == 1 ? static_cast<int32_t>(n_new) : i + 1);  // causal, with some that see all of a picture
    lo.push_back(with_lo ? i / 2 : 0);
  }
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  const Matrix before(n_new, q.cols, 1);
  const auto run = [&](int64_t first) {  // the queries from `first` on; the same rows are seen
    Matrix out = before;
    std::vector<int32_t> his;
    for (int64_t i = first; i < n_new; ++i) his.push_back(hi[static_cast<size_t>(i)] - static_cast<int32_t>(first));
    const cuda::ConstRows some(q.row(first), n_new - first, q.cols, q.stride);
    cuda::attend_prefill({out.row(first), n_new - first, out.cols, out.stride}, some, table.data(), n_kv,
                         with_lo ? lo.data() + first : nullptr, his.data(), dim, scale, softcap, nullptr);
    return out.data;
  };
  const auto got = both_orders([&] { return run(0); });
  if (n_new > 3) {  // a result doesn't depend on which queries came with it
    const auto part = run(3);
    for (int64_t i = 3; i < n_new; ++i)
      CHECK(std::memcmp(part.data() + i * before.stride, got.data() + i * before.stride,
                        static_cast<size_t>(q.cols) * 4) == 0);
  }
  std::vector<float> want(static_cast<size_t>(group * dim)), scratch(static_cast<size_t>(key_tile));
  for (int64_t h = 0; h < n_kv; ++h)
    for (int64_t i = 0; i < n_new; ++i) {
      const Head& head = heads[static_cast<size_t>(h)];
      AttendBlock b;
      b.q = q.row(i) + h * group * dim;
      b.out = want.data();
      b.n_tokens = 1;
      b.group = group;
      b.head_dim = dim;
      b.k = head.k.data();
      b.v = head.v.data();
      b.k_stride = b.v_stride = dim;
      b.n_keys = head.len;
      b.past = head.len - n_new;
      b.lo = with_lo ? lo.data() + i : nullptr;
      b.hi = hi.data() + i;
      b.scale = scale;
      b.softcap = softcap;
      b.scratch = scratch.data();
      scalar::attend_block(b);
      const View a{scale, softcap,   with_lo ? lo[static_cast<size_t>(i)] : 0, b.past + hi[static_cast<size_t>(i)], dim,
                   dim,   dim <= 128};
      for (int64_t j = 0; j < group; ++j)
        check_query(got.data() + i * before.stride + (h * group + j) * dim, want.data() + j * dim, b.q + j * dim, b.k,
                    b.v, a);
    }
}

}  // namespace

TEST(decode_at_every_length_around_a_tile) {
  check_decode(RowType::F16, 2, 16, {0, 1, 31, 32, 33, 63, 64, 65}, 3, 0);
  check_decode(RowType::F32, 1, 64, {0, 1, 2, 300}, 2, 0);
}

TEST(decode_of_every_stored_type_and_group) {
  check_decode(RowType::Q8_0, 3, 64, {100, 7}, 1, 0);
  check_decode(RowType::Q4_0, 4, 96, {129}, 2, 0);
  check_decode(RowType::F16, 7, 128, {200}, 4, 0);
  check_decode(RowType::F16, 11, 32, {70}, 1, 0);  // two passes
}

TEST(decode_of_odd_dimensions_and_softcap) {
  check_decode(RowType::F16, 2, 7, {40}, 1, 0);
  check_decode(RowType::F32, 2, 80, {66}, 2, 5.0f);
  check_decode(RowType::F16, 1, 256, {65}, 2, 0);
}

TEST(prefill_of_one_to_nine_queries) {
  for (int64_t n = 1; n <= 9; ++n) check_prefill(8, n % 3 + 1, n, {0, 5}, false, 0);
}

TEST(prefill_with_ragged_pasts_windows_and_softcap) {
  check_prefill(64, 2, 37, {0, 31, 32, 33}, false, 0);
  check_prefill(128, 1, 20, {45, 0}, true, 0);
  check_prefill(80, 3, 12, {3}, true, 4.0f);
  check_prefill(7, 1, 40, {0}, false, 0);
  check_prefill(90, 1, 70, {1}, false, 0);
}

TEST(prefill_of_large_heads_in_float32) {
  check_prefill(256, 1, 18, {50, 0}, false, 0);
  check_prefill(130, 3, 7, {33}, true, 3.0f);
}

TEST(a_query_that_sees_nothing_gets_zeros) {
  Head h = make_head(4, 16, RowType::F32);
  const cuda::KvHead table{h.k.data(), h.v.data(), 4};
  const Matrix q(2, 16);
  const std::vector<int32_t> lo = {0, 4}, hi = {1, 2};
  Matrix out(2, 16);
  cuda::attend_prefill(out.view(), q.view(), &table, 1, lo.data(), hi.data(), 16, 1, 0, nullptr);
  for (int i = 0; i < 16; ++i) {
    CHECK_EQ(out.row(1)[i], 0.0f);
    CHECK(std::isfinite(out.row(0)[i]) && out.row(0)[i] != 0);
  }
}

TEST(encoder_attention_in_segments) {
  for (const int64_t dim : {16, 72}) {
    const int64_t n = 70;
    const int n_head = 2;
    const Matrix q(n, n_head * dim, 4), k(n, n_head * dim, 1), v(n, n_head * dim, 2);
    const std::vector<int32_t> segments = {0, 1, 34, 34, 70};
    std::vector<int32_t> lo(70), hi(70);
    cuda::segment_bounds(lo.data(), hi.data(), segments.data(), 4, nullptr);
    for (const bool whole : {false, true}) {
      const auto got = both_orders([&] {
        Matrix out(n, n_head * dim);
        cuda::attend_full(out.view(), q.view(), k.view(), v.view(), n_head, whole ? nullptr : lo.data(),
                          whole ? nullptr : hi.data(), 0.25f, nullptr);
        return out.data;
      });
      std::vector<float> want(static_cast<size_t>(dim)), scratch(static_cast<size_t>(key_tile));
      for (int64_t i = 0; i < n; ++i)
        for (int64_t h = 0; h < n_head; ++h) {
          const auto from = std::upper_bound(segments.begin(), segments.end(), i) - 1;
          const int32_t first = whole ? 0 : *from, end = whole ? 70 : *(from + 1);
          AttendBlock b;
          b.q = q.row(i) + h * dim;
          b.out = want.data();
          b.n_tokens = 1;
          b.head_dim = dim;
          b.k = k.row(first) + h * dim;
          b.v = v.row(first) + h * dim;
          b.k_stride = k.stride;
          b.v_stride = v.stride;
          b.n_keys = end - first;
          b.scale = 0.25f;
          b.scratch = scratch.data();
          scalar::attend_block(b);
          const float* found = got.data() + (i * n_head + h) * dim;
          // check_query wants one stride for both: copies
          Matrix ks(end - first, dim), vs(end - first, dim);
          for (int64_t r = 0; r < ks.rows; ++r) {
            std::copy_n(b.k + r * k.stride, dim, ks.row(r));
            std::copy_n(b.v + r * v.stride, dim, vs.row(r));
          }
          check_query(found, want.data(), b.q, ks.row(0), vs.row(0), {0.25f, 0, 0, ks.rows, dim, dim, true});
        }
    }
  }
}
