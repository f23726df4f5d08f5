// Storing, gathering and measuring KV rows on every instruction set: bits where bits are due, bounds elsewhere.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "engine/core/error.h"
#include "kernels/cpu/ops.h"
#include "tests/backend/reference.h"
#include "tests/check.h"

using namespace foveal;
using reference::numbers;
using reference::Padded;
using reference::Random;
using reference::unit;

namespace {

const KvType types[] = {KvType::F32, KvType::F16, KvType::Q8_0, KvType::Q4_0};

int64_t bytes_of(KvType type, int64_t n) {
  return row_type_bytes(static_cast<RowType>(type), n);
}

double half_value(uint16_t h) {
  const int exponent = (h >> 10) & 31, fraction = h & 1023;
  const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return h & 0x8000 ? -size : size;
}

std::vector<float> floats_of(Backend& b, const void* rows, KvType type, int64_t n, int64_t head_dim) {
  std::vector<float> k(static_cast<size_t>(n * head_dim)), v(k.size());
  std::vector<int32_t> all;
  for (int32_t i = 0; i < n; ++i) all.push_back(i);
  void* p = const_cast<void*>(rows);
  b.gather_slots({k.data(), v.data(), 0}, KvType::F32, {p, p, n}, type, all, head_dim);
  return k;
}

}  // namespace

TEST(every_half_widens_exactly) {
  for (const auto& isa : reference::isas()) {
    Isa id;
    isa_from_name(isa.c_str(), &id);
    std::vector<uint16_t> halves(65536);
    for (size_t i = 0; i < 65536; ++i) halves[i] = static_cast<uint16_t>(i);
    std::vector<float> wide(65536);
    cpu_ops(id).load_rows(wide.data(), halves.data(), RowType::F16, 65536);
    int wrong = 0;
    for (size_t i = 0; i < 65536; ++i) {
      const auto h = static_cast<uint16_t>(i);
      if ((h & 0x7c00) == 0x7c00) {
        wrong += (h & 1023) ? !std::isnan(wide[i]) : wide[i] != (h & 0x8000 ? -INFINITY : INFINITY);
      } else {
        wrong += wide[i] != half_value(h) || std::signbit(wide[i]) != ((h & 0x8000) != 0);
      }
    }
    CHECK_EQ(wrong, 0);
  }
}

TEST(halves_round_to_nearest_even) {
  for (const auto& isa : reference::isas()) {
    Isa id;
    isa_from_name(isa.c_str(), &id);
    // between neighbours: below, at and above the middle
    std::vector<float> x;
    std::vector<uint16_t> expected;
    for (int h = 0; h < 0x7bff; ++h) {
      const double low = half_value(static_cast<uint16_t>(h)), high = half_value(static_cast<uint16_t>(h + 1));
      const float middle = static_cast<float>((low + high) / 2);
      for (float v : {static_cast<float>(low), std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1e9f)}) {
        const bool up = v > middle || (v == middle && (h & 1));
        x.push_back(v);
        expected.push_back(static_cast<uint16_t>(h + (up ? 1 : 0)));
        x.push_back(-v);
        expected.push_back(static_cast<uint16_t>((h + (up ? 1 : 0)) | 0x8000));
      }
    }
    for (float v : {65504.0f, 65519.99f, 65520.0f, 1e6f, INFINITY}) {
      x.push_back(v);
      expected.push_back(v < 65520.0f ? 0x7bff : 0x7c00);
    }
    std::vector<uint16_t> narrow(x.size());
    cpu_ops(id).store_rows(narrow.data(), RowType::F16, x.data(), static_cast<int64_t>(x.size()));
    CHECK(narrow == expected);
  }
}

TEST(block_types_agree_bit_for_bit) {
  Random random(1);
  auto x = numbers(32 * 500, random, 3);
  for (size_t i = 0; i < 32; ++i) x[i] = 0;                      // an empty block
  for (size_t i = 32; i < 64; ++i) x[i] = i % 2 ? 1.0f : -1.0f;  // ties of the largest
  for (RowType type : {RowType::Q8_0, RowType::Q4_0}) {
    const auto n = static_cast<int64_t>(x.size());
    std::vector<uint8_t> first(static_cast<size_t>(row_type_bytes(type, n)));
    std::vector<float> first_back(x.size());
    cpu_ops(Isa::scalar).store_rows(first.data(), type, x.data(), n);
    cpu_ops(Isa::scalar).load_rows(first_back.data(), first.data(), type, n);
    for (size_t b = 0; b < 500; ++b) {
      double largest = 0;
      for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(static_cast<double>(x[b * 32 + i])));
      // half a step (a whole one where Q4_0's range ends at 7/8 of the largest), and the half-precision scale's error
      const double step = largest / (type == RowType::Q8_0 ? 127 : 8), reach = type == RowType::Q8_0 ? 0.5 : 1.0;
      for (size_t i = 0; i < 32; ++i) {
        CHECK_NEAR(first_back[b * 32 + i], x[b * 32 + i], step * reach * 1.001 + largest * std::ldexp(1, -11));
      }
    }
    for (const auto& isa : reference::isas()) {
      Isa id;
      isa_from_name(isa.c_str(), &id);
      std::vector<uint8_t> other(first.size());
      std::vector<float> back(x.size());
      cpu_ops(id).store_rows(other.data(), type, x.data(), n);
      cpu_ops(id).load_rows(back.data(), other.data(), type, n);
      CHECK(other == first);
      CHECK(back == first_back);
    }
  }
}

TEST(append_and_compact) {
  for (const auto& isa : reference::isas()) {
    for (int threads : {1, 3}) {
      const auto b = make_cpu_backend(threads, isa);
      for (KvType type : types) {
        Random random(2);
        const int64_t head_dim = 64, n_kv = 3, rows = 40, bytes = bytes_of(type, head_dim);
        std::vector<std::vector<char>> storage(6, std::vector<char>(static_cast<size_t>((rows + 12) * bytes), 77));
        std::vector<KvHead> heads;
        for (size_t h = 0; h < 3; ++h)
          heads.push_back({storage[2 * h].data(), storage[2 * h + 1].data(), static_cast<int64_t>(h) * 5});
        const Padded k(rows, n_kv * head_dim, n_kv * head_dim + 3, random),
            v(rows, n_kv * head_dim, n_kv * head_dim, random);
        b->append_kv(heads, type, k.view, v.view, head_dim);
        for (size_t h = 0; h < 3; ++h) {
          const int64_t first = heads[h].len;
          for (int64_t i = 0; i < first * bytes; ++i) CHECK_EQ(storage[2 * h][static_cast<size_t>(i)], 77);
          for (size_t i = static_cast<size_t>((first + rows) * bytes); i < storage[2 * h].size(); ++i)
            CHECK_EQ(storage[2 * h][i], 77);
          std::vector<char> row(static_cast<size_t>(bytes));
          for (int64_t t = 0; t < rows; ++t) {
            for (size_t side = 0; side < 2; ++side) {
              const float* from = (side ? v : k).view.row(t) + static_cast<int64_t>(h) * head_dim;
              cpu_ops(Isa::scalar).store_rows(row.data(), static_cast<RowType>(type), from, head_dim);
              CHECK(std::memcmp(row.data(), storage[2 * h + side].data() + (first + t) * bytes, row.size()) == 0);
            }
          }
          // compaction in place keeps the rows' bytes
          const auto before = storage[2 * h];
          const std::vector<int32_t> slots = {0, 1, 4, 17, 18, 39};
          b->gather_slots(heads[h], type, heads[h], type, slots, head_dim);
          for (size_t j = 0; j < slots.size(); ++j) {
            CHECK(std::memcmp(storage[2 * h].data() + static_cast<int64_t>(j) * bytes, before.data() + slots[j] * bytes,
                              row.size()) == 0);
          }
        }
      }
    }
  }
}

TEST(norms_and_cosines) {
  for (const auto& isa : reference::isas()) {
    const auto b = make_cpu_backend(2, isa);
    for (KvType type : types) {
      for (int64_t head_dim : {32, 64, 96, 128, 20, 7}) {
        if (head_dim % 32 && (type == KvType::Q8_0 || type == KvType::Q4_0)) continue;
        for (int64_t n : {1, 2, 15, 33, 700}) {
          Random random(3);
          auto rows = numbers(static_cast<size_t>(n * head_dim), random, 2);
          if (n > 10) std::fill_n(rows.begin() + 3 * head_dim, head_dim, 0.0f);  // a zero row has cosine 0
          std::vector<char> stored(static_cast<size_t>(bytes_of(type, head_dim) * n));
          std::vector<int32_t> all;
          for (int32_t i = 0; i < n; ++i) all.push_back(i);
          const KvHead head{stored.data(), stored.data(), n};
          b->gather_slots(head, type, {rows.data(), rows.data(), n}, KvType::F32, all, head_dim);
          rows = floats_of(*b, stored.data(), type, n, head_dim);

          std::vector<double> mean(static_cast<size_t>(head_dim)), norm(static_cast<size_t>(n));
          for (int64_t i = 0; i < n; ++i) {
            const float* row = rows.data() + i * head_dim;
            double squares = 0;
            for (int64_t d = 0; d < head_dim; ++d) squares += static_cast<double>(row[d]) * row[d];
            norm[static_cast<size_t>(i)] = std::sqrt(squares);
            for (int64_t d = 0; d < head_dim; ++d) {
              mean[static_cast<size_t>(d)] += row[d] / std::max(std::sqrt(squares), 1e-12) / static_cast<double>(n);
            }
          }
          std::vector<float> norms(static_cast<size_t>(n)), cosine(static_cast<size_t>(n));
          double mean_norm2 = -1, exact_norm2 = 0;
          b->row_norm(norms.data(), stored.data(), type, n, head_dim);
          b->key_cosine(cosine.data(), &mean_norm2, head, type, head_dim);
          for (double m : mean) exact_norm2 += m * m;
          CHECK_NEAR(mean_norm2, exact_norm2, 1e-12);
          for (int64_t i = 0; i < n; ++i) {
            const double exact = norm[static_cast<size_t>(i)];
            CHECK_NEAR(norms[static_cast<size_t>(i)], exact, exact * 1.01 * unit);  // one rounding: computed in double
            double c = 0;
            for (int64_t d = 0; d < head_dim; ++d)
              c += rows[static_cast<size_t>(i * head_dim + d)] / std::max(exact, 1e-12) * mean[static_cast<size_t>(d)];
            CHECK_NEAR(cosine[static_cast<size_t>(i)], c, std::fabs(c) * 1.01 * unit + 1e-14);
          }
        }
      }
    }
  }
}

TEST(window_attention) {
  for (const auto& isa : reference::isas()) {
    for (KvType type : types) {
      for (int64_t n : {5, 64, 300, 777}) {
        for (float softcap : {0.0f, 20.0f}) {
          Random random(4);
          const int64_t head_dim = 64, group = 3, window = std::min<int64_t>(n, 8);
          auto rows = numbers(static_cast<size_t>(n * head_dim), random, 3);
          const Padded q(group * window, head_dim, head_dim + 5, random, 3);
          const auto b = make_cpu_backend(2, isa);
          std::vector<char> stored(static_cast<size_t>(bytes_of(type, head_dim) * n));
          std::vector<int32_t> all;
          for (int32_t i = 0; i < n; ++i) all.push_back(i);
          const KvHead head{stored.data(), stored.data(), n};
          b->gather_slots(head, type, {rows.data(), rows.data(), n}, KvType::F32, all, head_dim);
          rows = floats_of(*b, stored.data(), type, n, head_dim);
          std::vector<int64_t> visible;
          for (int64_t w = 0; w < window; ++w) visible.push_back(n - window + w + 1);
          Padded probs(group * window, n, n + 2), threaded = probs;
          b->window_attention(probs.view, q.view, head, type, visible, 0.125f, softcap);
          make_cpu_backend(3, isa)->window_attention(threaded.view, q.view, head, type, visible, 0.125f, softcap);
          CHECK(probs.data == threaded.data);
          CHECK(probs.gaps_untouched());
          for (int64_t i = 0; i < group * window; ++i) {
            const int64_t seen = visible[static_cast<size_t>(i % window)];
            std::vector<double> s(static_cast<size_t>(seen));
            double largest = -1e300, sum = 0, magnitude = 0;
            for (int64_t r = 0; r < seen; ++r) {
              double size = 0, dot = 0;
              for (int64_t d = 0; d < head_dim; ++d) {
                const double x = 0.125 * q.view.row(i)[d] * rows[static_cast<size_t>(r * head_dim + d)];
                dot += x;
                size += std::fabs(x);
              }
              magnitude = std::max(magnitude, size);
              s[static_cast<size_t>(r)] = softcap > 0 ? softcap * std::tanh(dot / softcap) : dot;
              largest = std::max(largest, s[static_cast<size_t>(r)]);
            }
            for (double& x : s) sum += x = std::exp(x - largest);
            // lanes of at least 8 and a tree: D/8 + 8 roundings a score; the weights err by twice that, and by the exp
            const double roundings = 2 * (static_cast<double>(head_dim) / 8 + 8) * magnitude + 40;
            for (int64_t r = 0; r < seen; ++r) {
              const double p = s[static_cast<size_t>(r)] / sum;
              CHECK_NEAR(probs.view.row(i)[r], p, p * roundings * unit + 1e-30);
            }
            for (int64_t r = seen; r < n; ++r) CHECK_EQ(probs.view.row(i)[r], 0.0f);
          }
        }
      }
    }
  }
}

// Refused on the caller's thread, however many rows there are to share out.
TEST(block_types_need_whole_blocks) {
  const auto b = make_cpu_backend(3, "");
  const int64_t n = 4096, head_dim = 48;
  std::vector<float> rows(static_cast<size_t>(n * head_dim)), out(rows.size());
  const KvHead head{rows.data(), rows.data(), n};
  const std::vector<int64_t> visible = {n};
  const std::vector<int32_t> slots = {0};
  double norm2;
  const Mat one(out.data(), 1, head_dim), wide(out.data(), 1, n), q(rows.data(), 1, head_dim);
  for (KvType type : {KvType::Q8_0, KvType::Q4_0}) {
    CHECK_THROWS(Error, "multiple of 32; found 48", b->row_norm(out.data(), rows.data(), type, n, head_dim));
    CHECK_THROWS(Error, "multiple of 32; found 48", b->key_cosine(out.data(), &norm2, head, type, head_dim));
    CHECK_THROWS(Error, "multiple of 32; found 48", b->window_attention(wide, q, head, type, visible, 1, 0));
    CHECK_THROWS(Error, "multiple of 32; found 48", b->attend_ragged(one, q, {&head, 1}, type, head_dim, {1, 0}));
    CHECK_THROWS(Error, "multiple of 32; found 48", b->append_kv({&head, 1}, type, one, one, head_dim));
    CHECK_THROWS(Error, "multiple of 32; found 48", b->gather_slots(head, KvType::F32, head, type, slots, head_dim));
    CHECK_THROWS(Error, "multiple of 32; found 48", b->gather_slots(head, type, head, KvType::F32, slots, head_dim));
  }
  b->row_norm(out.data(), rows.data(), KvType::F32, n, head_dim);  // and the backend still works
  CHECK_EQ(out[0], 0.0f);
}

// Inside of for_each a worker measures by itself: the same bits, whoever is where; an exception leaves nothing behind.
TEST(measured_side_by_side) {
  const auto b = make_cpu_backend(3, "");
  const int64_t head_dim = 64, rows = 700, queries = 8, count = 20;
  Random random(3);
  std::vector<float> k = numbers(static_cast<size_t>(count * rows * head_dim), random);
  const std::vector<float> q = numbers(static_cast<size_t>(queries * head_dim), random);
  const std::vector<int64_t> visible = {rows};
  const auto measure = [&](int64_t i, std::vector<float>& out) {
    float* const mine = k.data() + i * rows * head_dim;
    const KvHead head{mine, mine, rows - i};
    double norm2 = 0;
    out.assign(static_cast<size_t>((queries + 2) * rows + 1), 0.0f);
    b->window_attention(Mat(out.data(), queries, rows - i, rows), ConstMat(q.data(), queries, head_dim), head,
                        KvType::F32, visible, 0.125f, 0);
    b->key_cosine(out.data() + queries * rows, &norm2, head, KvType::F32, head_dim);
    b->row_norm(out.data() + (queries + 1) * rows, mine, KvType::F32, rows - i, head_dim);
    out.back() = static_cast<float>(norm2);
  };
  std::vector<std::vector<float>> alone(count), together(count);
  for (int64_t i = 0; i < count; ++i) measure(i, alone[static_cast<size_t>(i)]);
  b->for_each(count, [&](int64_t i) { measure(i, together[static_cast<size_t>(i)]); });
  CHECK(alone == together);

  std::atomic<int> called{0};
  CHECK_THROWS(Error, "seven", b->for_each(count, [&](int64_t i) {
    ++called;
    if (i == 7 || i == 11) fail(ErrorCode::state, i == 7 ? "seven" : "eleven");
  }));
  CHECK_EQ(called.load(), static_cast<int>(count));
  b->for_each(count, [&](int64_t i) { measure(i, together[static_cast<size_t>(i)]); });
  CHECK(alone == together);
}
