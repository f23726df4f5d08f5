// Attention on every instruction set against double precision; the bound follows from the roundings of the scores.
#include <algorithm>

#include "tests/backend/reference.h"
#include "tests/check.h"

using namespace foveal;
using reference::numbers;
using reference::Padded;
using reference::Random;
using reference::unit;

namespace {

// softmax(cap(scale q K^T)) V of one query over rows [lo, hi) in double, with an error bound for float32 arithmetic:
// a score errs by (D + 4) roundings of scale * sum |q k|; weights err by twice the largest such error plus the exp and
// the sum over the rows (in tiles of 64); the output by that times sum p |v|.
struct Exact {
  std::vector<double> out, bound;
};
Exact attend(const float* q, const float* k, int64_t k_stride, const float* v, int64_t v_stride, int64_t lo, int64_t hi,
             int64_t head_dim, double scale, double softcap) {
  const auto n = static_cast<size_t>(std::max<int64_t>(0, hi - lo)), d_size = static_cast<size_t>(head_dim);
  std::vector<double> s(n);
  double largest = -1e300, magnitude = 0, sum = 0;
  for (size_t r = 0; r < n; ++r) {
    double size = 0;
    const float* row = k + (lo + static_cast<int64_t>(r)) * k_stride;
    for (int64_t d = 0; d < head_dim; ++d) {
      s[r] += scale * q[d] * row[d];
      size += std::fabs(scale * q[d] * row[d]);
    }
    if (softcap > 0) s[r] = softcap * std::tanh(s[r] / softcap);
    largest = std::max(largest, s[r]);
    magnitude = std::max(magnitude, size);
  }
  Exact e{std::vector<double>(d_size, 0), std::vector<double>(d_size, 0)};
  for (double& x : s) sum += x = std::exp(x - largest);
  const double roundings =
      2 * (static_cast<double>(head_dim) + 8) * magnitude + 64 + 4 * static_cast<double>(n) / 64 + 32;
  for (size_t r = 0; r < n; ++r) {
    for (size_t d = 0; d < d_size; ++d) {
      const double x = s[r] / sum * v[(lo + static_cast<int64_t>(r)) * v_stride + static_cast<int64_t>(d)];
      e.out[d] += x;
      e.bound[d] += std::fabs(x) * roundings * unit;
    }
  }
  return e;
}

void check_row(const float* out, const Exact& e) {
  for (size_t d = 0; d < e.out.size(); ++d) CHECK_NEAR(out[d], e.out[d], e.bound[d] + 1e-30);
}

// Float32 heads of different lengths, the last `n_new` rows of each being the new ones.
struct Heads {
  std::vector<std::vector<float>> k, v;
  std::vector<KvHead> heads;
  Heads(const std::vector<int64_t>& lengths, int64_t head_dim, Random& random, float size) {
    for (int64_t n : lengths) {
      k.push_back(numbers(static_cast<size_t>(n * head_dim), random, size));
      v.push_back(numbers(static_cast<size_t>(n * head_dim), random));
      heads.push_back({k.back().data(), v.back().data(), n});
    }
  }
};

struct Case {
  int64_t head_dim, group, n_new;
  std::vector<int64_t> past;  // one a KV head
  float softcap;
  int64_t window;  // > 0: sliding window
};

const std::vector<Case> prefill_cases = {
    {64, 3, 1, {0, 0, 0}, 0, 0},    {64, 3, 50, {0, 7}, 0, 0}, {64, 1, 130, {200, 64}, 0, 0}, {32, 7, 33, {100}, 0, 0},
    {128, 6, 40, {63, 65}, 0, 0},   {80, 2, 70, {5}, 50, 0},   {16, 4, 200, {0, 130}, 0, 60}, {72, 5, 17, {0}, 0, 0},
    {20, 8, 19, {1, 2, 3}, 30, 10}, {3, 1, 5, {0}, 0, 0},      {256, 2, 20, {90}, 0, 0},      {96, 12, 9, {70}, 0, 0},
};

void visible_rows(const Case& c, std::vector<int32_t>& lo, std::vector<int32_t>& hi) {
  for (int64_t i = 0; i < c.n_new; ++i) {
    hi.push_back(static_cast<int32_t>(i + 1));
    lo.push_back(static_cast<int32_t>(std::max<int64_t>(0, c.past[0] + i + 1 - c.window)));
  }
  // an image: its rows see each other, before and after
  for (int64_t i = c.n_new / 3; i < c.n_new / 2; ++i) hi[static_cast<size_t>(i)] = static_cast<int32_t>(c.n_new / 2);
}

}  // namespace

TEST(prefill) {
  for (const auto& isa : reference::isas()) {
    const auto b = make_cpu_backend(2, isa);
    Random random(1);
    for (const Case& c : prefill_cases) {
      const auto n_kv = static_cast<int64_t>(c.past.size()), cols = n_kv * c.group * c.head_dim;
      std::vector<int64_t> lengths;
      for (int64_t p : c.past) lengths.push_back(p + c.n_new);
      Heads kv(lengths, c.head_dim, random, 2);
      const Padded q(c.n_new, cols, cols + 3, random, 2);
      Padded out(c.n_new, cols, cols + 5);
      std::vector<int32_t> lo, hi;
      visible_rows(c, lo, hi);
      const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
      b->attend_prefill(out.view, q.view, kv.heads, c.n_new, c.window ? lo.data() : nullptr, hi.data(), c.head_dim,
                        {scale, c.softcap});
      CHECK(out.gaps_untouched());
      for (int64_t i = 0; i < c.n_new; ++i) {
        for (int64_t j = 0; j < n_kv * c.group; ++j) {
          const auto ih = static_cast<size_t>(j / c.group), t = static_cast<size_t>(i);
          check_row(out.view.row(i) + j * c.head_dim,
                    attend(q.view.row(i) + j * c.head_dim, kv.k[ih].data(), c.head_dim, kv.v[ih].data(), c.head_dim,
                           c.window ? lo[t] : 0, c.past[ih] + hi[t], c.head_dim, scale, c.softcap));
        }
      }
    }
  }
}

// The rows in chunks of 1, 7 and 64, on 1, 2 and 3 threads, give the bits that one call gives.
TEST(prefill_chunks_and_threads) {
  for (const auto& isa : reference::isas()) {
    for (int64_t group : {1, 3, 7}) {
      Random random(2);
      const int64_t head_dim = 64, total = 150, cols = 2 * group * head_dim;
      Heads kv({total, total + 40}, head_dim, random, 3);
      const Padded q(total, cols, cols, random, 2);
      std::vector<int32_t> causal;
      for (int32_t i = 1; i <= total; ++i) causal.push_back(i);
      Padded whole(total, cols, cols);
      make_cpu_backend(1, isa)->attend_prefill(whole.view, q.view, kv.heads, total, nullptr, causal.data(), head_dim,
                                               {0.125f, 0});
      for (int threads : {1, 2, 3}) {
        const auto b = make_cpu_backend(threads, isa);
        for (int64_t chunk : {1, 7, 64, 150}) {
          Padded out(total, cols, cols);
          for (int64_t first = 0; first < total; first += chunk) {
            const int64_t n = std::min(chunk, total - first);
            std::vector<KvHead> seen = kv.heads;
            for (KvHead& h : seen) h.len -= total - first - n;
            b->attend_prefill(out.view.rows_at(first, n), q.view.rows_at(first, n), seen, n, nullptr, causal.data(),
                              head_dim, {0.125f, 0});
          }
          CHECK(out.data == whole.data);
        }
      }
    }
  }
}

TEST(prefill_without_visible_rows) {
  for (const auto& isa : reference::isas()) {
    Random random(3);
    Heads kv({5}, 8, random, 1);
    const Padded q(5, 8, 8, random);
    Padded out(5, 8, 8);
    const std::vector<int32_t> lo = {0, 2, 5, 5, 1}, hi = {1, 2, 3, 4, 5};  // rows 1, 2 and 3 see nothing
    make_cpu_backend(1, isa)->attend_prefill(out.view, q.view, kv.heads, 5, lo.data(), hi.data(), 8, {1, 0});
    for (int64_t i = 0; i < 5; ++i) {
      for (int64_t d = 0; d < 8; ++d) CHECK_EQ(out.view.row(i)[d] == 0.0f, i >= 1 && i <= 3);
    }
  }
}

TEST(full) {
  struct Full {
    int n_head;
    int64_t head_dim;
    std::vector<int32_t> segments;
  };
  const std::vector<Full> cases = {{2, 64, {0, 100}},        {3, 72, {0, 64, 65, 130, 300}},
                                   {2, 80, {0, 16, 32, 40}}, {1, 5, {0, 1, 2, 50}},
                                   {4, 16, {0, 0, 7}},       {2, 128, {0, 70}}};
  for (const auto& isa : reference::isas()) {
    for (int threads : {1, 3}) {
      const auto b = make_cpu_backend(threads, isa);
      Random random(4);
      for (const Full& c : cases) {
        const int64_t n = c.segments.back(), cols = c.n_head * c.head_dim;
        Padded qkv(n, 3 * cols, 3 * cols + 1, random, 2);  // q | k | v side by side
        Padded out(n, cols, cols + 2);
        const Mat q = qkv.view.cols_at(0, cols), k = qkv.view.cols_at(cols, cols), v = qkv.view.cols_at(2 * cols, cols);
        const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
        b->attend_full(out.view, q, k, v, c.n_head, c.segments, scale);
        CHECK(out.gaps_untouched());
        for (size_t j = 0; j + 1 < c.segments.size(); ++j) {
          for (int64_t i = c.segments[j]; i < c.segments[j + 1]; ++i) {
            for (int64_t h = 0; h < c.n_head; ++h) {
              check_row(out.view.row(i) + h * c.head_dim,
                        attend(q.row(i) + h * c.head_dim, k.data + h * c.head_dim, k.stride, v.data + h * c.head_dim,
                               v.stride, c.segments[j], c.segments[j + 1], c.head_dim, scale, 0));
            }
          }
        }
      }
    }
  }
}

TEST(ragged) {
  struct Ragged {
    int64_t head_dim, group;
    std::vector<int64_t> lengths;
    float softcap;
  };
  const std::vector<Ragged> cases = {{64, 3, {1, 15, 16}, 0}, {64, 3, {17, 300, 255, 256, 257}, 0},
                                     {128, 7, {33, 1000}, 0}, {32, 1, {100, 0, 5}, 0},
                                     {96, 2, {64, 511}, 50},  {256, 4, {270}, 0},
                                     {64, 12, {40, 41}, 0},   {160, 5, {18, 19, 20}, 0}};
  for (const auto& isa : reference::isas()) {
    for (const Ragged& c : cases) {
      for (KvType type : {KvType::F32, KvType::F16, KvType::Q8_0, KvType::Q4_0}) {
        Random random(5);
        const auto n_kv = static_cast<int64_t>(c.lengths.size()), cols = n_kv * c.group * c.head_dim;
        const auto one = make_cpu_backend(1, isa);
        // Float rows go through the cache's type; what the cache then holds is the truth.
        Heads source(c.lengths, c.head_dim, random, 2), truth = source;
        std::vector<std::vector<char>> stored;
        std::vector<KvHead> cache;
        for (size_t h = 0; h < c.lengths.size(); ++h) {
          const KvHead from{source.k[h].data(), source.v[h].data(), c.lengths[h]};
          const KvHead back{truth.k[h].data(), truth.v[h].data(), 0};
          for (int side = 0; side < 2; ++side) stored.emplace_back(static_cast<size_t>(c.lengths[h] * c.head_dim * 4));
          const KvHead to{stored[2 * h].data(), stored[2 * h + 1].data(), c.lengths[h]};
          std::vector<int32_t> all;
          for (int32_t i = 0; i < c.lengths[h]; ++i) all.push_back(i);
          one->gather_slots(to, type, from, KvType::F32, all, c.head_dim);
          one->gather_slots(back, KvType::F32, to, type, all, c.head_dim);
          cache.push_back(to);
        }
        const Padded q(1, cols, cols, random, 2);
        const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
        Padded out(1, cols, cols);
        one->attend_ragged(out.view, q.view, cache, type, c.head_dim, {scale, c.softcap});
        CHECK(out.gaps_untouched());
        for (int64_t j = 0; j < n_kv * c.group; ++j) {
          const auto h = static_cast<size_t>(j / c.group);
          check_row(out.view.data + j * c.head_dim,
                    attend(q.view.data + j * c.head_dim, truth.k[h].data(), c.head_dim, truth.v[h].data(), c.head_dim,
                           0, c.lengths[h], c.head_dim, scale, c.softcap));
        }
        for (int threads : {2, 3}) {
          Padded again(1, cols, cols);
          make_cpu_backend(threads, isa)
              ->attend_ragged(again.view, q.view, cache, type, c.head_dim, {scale, c.softcap});
          CHECK(again.data == out.data);
        }
      }
    }
  }
}
