// Rows of the cache and the measurements for eviction on the host shim, against the scalar kernels.
#include <algorithm>

#include "kernels/cpu/scalar/ops.h"
#include "tests/cuda/shim/help.h"

using namespace foveal;
using shim::both_orders;
using shim::Matrix;
using shim::unit;

namespace {

constexpr RowType kTypes[] = {RowType::F32, RowType::F16, RowType::Q8_0, RowType::Q4_0};
using Bytes = std::vector<uint8_t>;

cuda::RowType cuda_type(RowType type) {
  return static_cast<cuda::RowType>(type);
}
std::vector<int64_t> dims_of(RowType type) {
  return type == RowType::F32 || type == RowType::F16 ? std::vector<int64_t>{1, 7, 33, 80, 256}
                                                      : std::vector<int64_t>{32, 96, 256};
}
// Exactly n elements at an address that new aligns.
Bytes stored(RowType type, const std::vector<float>& x) {
  Bytes b(static_cast<size_t>(row_type_bytes(type, static_cast<int64_t>(x.size()))));
  scalar::store_rows(b.data(), type, x.data(), static_cast<int64_t>(x.size()));
  return b;
}
std::vector<float> loaded(RowType type, const Bytes& b, int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  scalar::load_rows(x.data(), b.data(), type, n);
  return x;
}

}  // namespace

TEST(appended_rows_are_the_scalar_bytes_behind_each_length) {
  for (const RowType type : kTypes)
    for (const int64_t dim : dims_of(type)) {
      const int64_t lengths[] = {0, 3, 1}, bytes = row_type_bytes(type, dim);
      Matrix k(4, 3 * dim, 2), v(4, 3 * dim, 1);
      k.row(1)[0] = k.row(1)[dim - 1] = -9;  // two of the largest magnitude: the first counts
      if (dim > 1) k.row(1)[1] = 9;
      for (int64_t i = 0; i < dim; ++i) v.row(0)[i] = 0;  // a block of zeros has no scale
      std::vector<Bytes> want;
      for (int64_t h = 0; h < 3; ++h)
        for (const Matrix* x : {&k, &v}) {
          Bytes rows(static_cast<size_t>((lengths[h] + 5) * bytes), 0xa5);
          for (int64_t t = 0; t < 4; ++t)
            scalar::store_rows(rows.data() + (lengths[h] + t) * bytes, type, x->row(t) + h * dim, dim);
          want.push_back(rows);
        }
      const auto got = both_orders([&] {
        std::vector<Bytes> rows;
        for (const Bytes& b : want) rows.push_back(Bytes(b.size(), 0xa5));
        std::vector<cuda::KvHead> heads;
        for (size_t h = 0; h < 3; ++h) heads.push_back({rows[2 * h].data(), rows[2 * h + 1].data(), lengths[h]});
        cuda::append_kv(heads.data(), 3, cuda_type(type), k.view(), v.view(), dim, nullptr);
        cuda::advance_lengths(heads.data(), 3, 4, nullptr);
        for (size_t h = 0; h < 3; ++h) CHECK_EQ(heads[h].len, lengths[h] + 4);
        Bytes all;
        for (const Bytes& b : rows) all.insert(all.end(), b.begin(), b.end());
        return all;
      });
      Bytes all;
      for (const Bytes& b : want) all.insert(all.end(), b.begin(), b.end());
      CHECK(got == all);
    }
}

TEST(slots_are_gathered_in_place) {
  for (const RowType type : kTypes)
    for (const int64_t dim : dims_of(type)) {
      const int64_t n = 150;
      const Bytes k = stored(type, shim::randoms(n * dim)), v = stored(type, shim::randoms(n * dim));
      std::vector<int32_t> slots;
      for (int32_t i = 0; i < n; ++i)
        if (i < 2 || shim::rng()() % 3 != 0) slots.push_back(i);
      const auto bytes = static_cast<size_t>(row_type_bytes(type, dim));
      Bytes want_k = k, want_v = v;
      for (size_t j = 0; j < slots.size(); ++j) {
        const auto from = static_cast<size_t>(slots[j]) * bytes;
        std::copy_n(k.begin() + static_cast<long>(from), bytes, want_k.begin() + static_cast<long>(j * bytes));
        std::copy_n(v.begin() + static_cast<long>(from), bytes, want_v.begin() + static_cast<long>(j * bytes));
      }
      both_orders([&] {
        Bytes a = k, b = v;
        const cuda::KvHead head{a.data(), b.data(), n};
        cuda::gather_slots(head, cuda_type(type), head, cuda_type(type), slots.data(),
                           static_cast<int64_t>(slots.size()), dim, nullptr);
        CHECK(a == want_k);
        CHECK(b == want_v);
        return a;
      });
    }
}

TEST(slots_are_gathered_into_every_other_type) {
  for (const RowType from : kTypes)
    for (const RowType to : kTypes) {
      const int64_t n = 9, dim = 64;
      const Bytes k = stored(from, shim::randoms(n * dim)), v = stored(from, shim::randoms(n * dim));
      const std::vector<int32_t> slots = {0, 2, 3, 8};
      const auto k_floats = loaded(from, k, n * dim), v_floats = loaded(from, v, n * dim);
      std::vector<float> some_k, some_v;
      for (const int32_t s : slots) {
        some_k.insert(some_k.end(), k_floats.begin() + s * dim, k_floats.begin() + (s + 1) * dim);
        some_v.insert(some_v.end(), v_floats.begin() + s * dim, v_floats.begin() + (s + 1) * dim);
      }
      Bytes a(static_cast<size_t>(row_type_bytes(to, 4 * dim))), b = a, ks = k, vs = v;
      cuda::gather_slots({a.data(), b.data(), 0}, cuda_type(to), {ks.data(), vs.data(), n}, cuda_type(from),
                         slots.data(), 4, dim, nullptr);
      if (from == to) continue;  // moved as bytes, which the test above checks
      CHECK(a == stored(to, some_k));
      CHECK(b == stored(to, some_v));
    }
}

TEST(row_norms) {
  for (const RowType type : kTypes)
    for (const int64_t dim : dims_of(type)) {
      const Bytes rows = stored(type, shim::randoms(9 * dim));
      const auto x = loaded(type, rows, 9 * dim);
      std::vector<float> want(9);
      scalar::row_norm(want.data(), x.data(), 9, dim);
      const auto got = both_orders([&] {
        std::vector<float> norms(9);
        cuda::row_norm(norms.data(), rows.data(), cuda_type(type), 9, dim, nullptr);
        return norms;
      });
      // a square root halves the relative error of the sum: four squares a lane and 128 numbers, then the tree
      for (size_t i = 0; i < 9; ++i) CHECK_NEAR(got[i], want[i], ((8 + 6) / 2.0 + 2) * unit * want[i]);
    }
}

TEST(cosines_to_the_mean_direction) {
  for (const RowType type : kTypes)
    for (const int64_t dim : dims_of(type))
      for (const int64_t n : {0, 1, 31, 33, 128, 300}) {
        auto k = shim::randoms(n * dim);
        for (int64_t d = 0; d < dim && n > 31; ++d) k[static_cast<size_t>(7 * dim + d)] = 0;  // a key without direction
        Bytes rows = stored(type, k);
        const auto x = loaded(type, rows, n * dim);
        std::vector<double> mean(static_cast<size_t>(dim));
        std::vector<float> want(static_cast<size_t>(n));
        scalar::unit_sum(mean.data(), x.data(), n, dim);
        double norm2 = 0;
        for (double& m : mean) {
          m = n > 0 ? m / static_cast<double>(n) : 0;
          norm2 += m * m;
        }
        scalar::cosine(want.data(), mean.data(), x.data(), n, dim);
        double found2 = -1;
        const auto got = both_orders([&] {
          std::vector<float> cosine(static_cast<size_t>(n)), room(cuda::key_cosine_room(n, dim) / 4);
          cuda::key_cosine(cosine.data(), &found2, {rows.data(), nullptr, n}, cuda_type(type), dim, room.data(),
                           nullptr);
          return cosine;
        });
        // per number of the mean: 32 rows a warp, 4 warps, the pieces, and 12 roundings of a unit vector's number;
        // absolute, as sums of unit vectors: |mean - m| <= roundings * mean of |k_i| a coordinate, together <= that * 1
        const double roundings = 32 + 4 + static_cast<double>(n) / 128 + 12;
        CHECK_NEAR(found2, norm2, 2 * (roundings + 10) * unit);
        for (size_t i = 0; i < want.size(); ++i) CHECK_NEAR(got[i], want[i], (roundings + 24) * unit);
      }
}

TEST(window_attention_with_every_visibility) {
  for (const RowType type : kTypes)
    for (const float softcap : {0.0f, 3.0f})
      for (const int64_t n : {1, 31, 33, 70}) {
        const int64_t dim = dims_of(type)[2], window = 3, group = 2;
        Bytes rows = stored(type, shim::randoms(n * dim));
        const auto x = loaded(type, rows, n * dim);
        const Matrix q(group * window, dim, 3);
        const std::vector<int64_t> visible = {std::max<int64_t>(1, n - 2), n, n + 5};
        const float scale = 1 / std::sqrt(static_cast<float>(dim));
        const auto got = both_orders([&] {
          Matrix probs(group * window, n);
          cuda::window_attention(probs.view(), q.view(), {rows.data(), nullptr, n}, cuda_type(type), visible.data(), 3,
                                 scale, softcap, nullptr);
          return probs.data;
        });
        std::vector<float> want(static_cast<size_t>(n));
        for (int64_t i = 0; i < q.rows; ++i) {
          const int64_t seen = std::min(n, visible[static_cast<size_t>(i % window)]);
          scalar::score_rows(want.data(), n, q.row(i), q.stride, 1, x.data(), n, dim);
          scalar::softmax(want.data(), seen, scale, softcap);
          std::fill(want.begin() + seen, want.end(), 0.0f);
          double largest = 0;  // sum of |q k| of any row: what a score's roundings are of
          for (int64_t r = 0; r < seen; ++r) {
            double size = 0;
            for (int64_t d = 0; d < dim; ++d) size += std::fabs(q.row(i)[d] * x[static_cast<size_t>(r * dim + d)]);
            largest = std::max(largest, size * scale);
          }
          const double relative = (2 * (static_cast<double>(dim) + 6) * largest + 20) * unit;
          for (int64_t r = 0; r < n; ++r)
            CHECK_NEAR(got[static_cast<size_t>(i * n + r)], want[static_cast<size_t>(r)],
                       relative * want[static_cast<size_t>(r)]);
        }
      }
}

TEST(a_copy_goes_where_the_address_in_memory_says) {
  for (const int64_t n : {1, 255, 256, 700}) {
    const std::vector<float> from = shim::randoms(n);
    std::vector<float> a(static_cast<size_t>(n + 1), 7.0f), b = a;
    float* to = a.data();
    cuda::copy_to(&to, from.data(), n, nullptr);
    to = b.data();
    cuda::copy_to(&to, from.data(), n, nullptr);
    CHECK(std::equal(from.begin(), from.end(), a.begin()) && a == b && a.back() == 7.0f);
  }
}
